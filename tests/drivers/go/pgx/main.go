// pgx through a pooler: many clients, fewer servers.
//
// Owns: the clients and what each of them expects.
// Does not own: where the server is (PGHOST and the like).
// Invariants: a client counts its own values; whatever is not its own ends the program with an
// error.
//
// Source: the documentation of pgx v4 (statement_cache_mode, Batch, CopyFrom).
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgtype"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

const (
	clients = 12
	rounds  = 60
)

// What the statement cache of the driver does.
var modes = []string{"prepare", "describe", "simple"}

type client struct {
	number int
	mode   string
	conn   *pgx.Conn
}

var ctx = context.Background()

func (c *client) check(holds bool, format string, values ...interface{}) {
	if !holds {
		fmt.Fprintf(os.Stderr, "client %d %s: %s\n", c.number, c.mode, fmt.Sprintf(format, values...))
		os.Exit(1)
	}
}

func (c *client) fine(err error, what string) {
	c.check(err == nil, "%s: %v", what, err)
}

func (c *client) fails(err error, sqlstate string) {
	var from *pgconn.PgError
	c.check(errors.As(err, &from) && from.Code == sqlstate, "wanted error %s, got %v", sqlstate, err)
}

func (c *client) exec(sql string, arguments ...interface{}) {
	_, err := c.conn.Exec(ctx, sql, arguments...)
	c.fine(err, sql)
}

func (c *client) text(sql string, arguments ...interface{}) string {
	var value string
	c.fine(c.conn.QueryRow(ctx, sql, arguments...).Scan(&value), sql)
	return value
}

func (c *client) table() string {
	return fmt.Sprintf("go_pgx_%d", c.number)
}

func (c *client) reuseStatements() {
	own := fmt.Sprintf("select $1::text || ' of %d'", c.number)
	_, err := c.conn.Prepare(ctx, "own", own)
	c.fine(err, "prepare")
	for round := 0; round < rounds; round++ {
		value := fmt.Sprintf("round %d", round)
		wanted := fmt.Sprintf("%s of %d", value, c.number)
		if c.mode != "describe" { // There the driver does not know names.
			c.check(c.text("own", value) == wanted, "own statement")
		}
		c.check(c.text(own, value) == wanted, "statement of the cache")
		var double int
		c.fine(c.conn.QueryRow(ctx, "select $1::int * 2", round*100+c.number).Scan(&double), "shared")
		c.check(double == 2*(round*100+c.number), "shared statement: %d", double)
	}
	c.fine(c.conn.Deallocate(ctx, "own"), "deallocate")
	_, err = c.conn.Prepare(ctx, "own", "select $1::text || ' anew'")
	c.fine(err, "prepare anew")
	if c.mode != "describe" {
		c.check(c.text("own", "it") == "it anew", "statement defined anew")
	}
}

// More texts than the driver keeps.
func (c *client) useManyStatements() {
	for round := 0; round < 2; round++ {
		for text := 0; text < 40; text++ {
			var sum int
			sql := fmt.Sprintf("select %d + $1::int", text)
			c.fine(c.conn.QueryRow(ctx, sql, c.number).Scan(&sum), sql)
			c.check(sum == text+c.number, "many: %d", sum)
		}
	}
}

func (c *client) batches() {
	for round := 0; round < rounds/4; round++ {
		batch := &pgx.Batch{}
		for step := 0; step < 10; step++ {
			batch.Queue("select $1::int + $2::int", round, step*c.number)
		}
		isFailing := round%3 == 2
		if isFailing {
			batch.Queue("select 1 / $1::int", 0)
			batch.Queue("select $1::int + $2::int", 1, 1)
		}
		results := c.conn.SendBatch(ctx, batch)
		for step := 0; step < 10; step++ {
			var sum int
			c.fine(results.QueryRow().Scan(&sum), "batch")
			c.check(sum == round+step*c.number, "batch: %d", sum)
		}
		var never int
		if isFailing {
			c.fails(results.QueryRow().Scan(&never), "22012")
		}
		err := results.Close()
		c.check(isFailing || err == nil, "end of a batch: %v", err)
	}
}

func (c *client) transactions() {
	c.exec("create table " + c.table() + " (n int, word text)")
	insert := "insert into " + c.table() + " values ($1, $2)"
	for round := 0; round < rounds/4; round++ {
		tx, err := c.conn.Begin(ctx)
		c.fine(err, "begin")
		_, err = tx.Exec(ctx, insert, 1, nil)
		c.fine(err, "insert")
		inner, err := tx.Begin(ctx)
		c.fine(err, "savepoint")
		_, err = inner.Exec(ctx, "select 1 / $1::int", 0)
		c.fails(err, "22012")
		_, err = inner.Exec(ctx, "select 1")
		c.fails(err, "25P02")
		c.fine(inner.Rollback(ctx), "rollback to savepoint")
		_, err = tx.Exec(ctx, insert, 2, "two")
		c.fine(err, "insert after the savepoint")
		if round%2 == 0 {
			c.fine(tx.Commit(ctx), "commit")
		} else {
			c.fine(tx.Rollback(ctx), "rollback")
		}
	}
	var rows, words int
	count := "select count(*), count(word) from " + c.table()
	c.fine(c.conn.QueryRow(ctx, count).Scan(&rows, &words), "count")
	c.check(rows == (rounds/4+1)/2*2 && words == rows/2, "transactions: %d %d", rows, words)
	_, err := c.conn.Exec(ctx, "select * from nowhere_at_all")
	c.fails(err, "42P01")
}

func (c *client) copyIn() {
	values := make([][]interface{}, 2000)
	for row := range values {
		values[row] = []interface{}{row, fmt.Sprintf("copied %d", c.number)}
	}
	count, err := c.conn.CopyFrom(ctx, pgx.Identifier{c.table()}, []string{"n", "word"},
		pgx.CopyFromRows(values))
	c.fine(err, "copy")
	c.check(count == 2000, "copied %d", count)
	sql := "select count(*)::text from " + c.table() + " where word = $1"
	c.check(c.text(sql, fmt.Sprintf("copied %d", c.number)) == "2000", "copied rows")
}

func (c *client) types() {
	at := time.Date(2024, 2, 29, 12, 34, 56, 789012000, time.UTC)
	blob := []byte{0, byte(c.number), 255, '\\'}
	sql := "select $1::jsonb, $2::int[], $3::timestamptz, $4::bytea, $5::numeric, $6::text, $7::float8"
	for round := 0; round < 5; round++ {
		var object map[string]int
		var array []int32
		var moment time.Time
		var gotBlob []byte
		var number pgtype.Numeric
		var null *string
		var float float64
		given := pgtype.Numeric{}
		c.fine(given.Set("12345678901234567890.0123456789"), "numeric")
		row := c.conn.QueryRow(ctx, sql, map[string]int{"n": c.number}, []int32{1, int32(c.number)},
			at, blob, &given, nil, 0.1)
		c.fine(row.Scan(&object, &array, &moment, &gotBlob, &number, &null, &float), "types")
		c.check(object["n"] == c.number, "json: %v", object)
		c.check(len(array) == 2 && array[1] == int32(c.number), "array: %v", array)
		c.check(moment.Equal(at), "time: %v", moment)
		c.check(bytes.Equal(gotBlob, blob), "bytes: %v", gotBlob)
		c.check(number.Int.Cmp(given.Int) == 0 && number.Exp == given.Exp, "numeric: %v", number)
		c.check(null == nil && float == 0.1, "NULL or float: %v %v", null, float)
	}
}

func (c *client) largeData() {
	for _, size := range []int{10, 20_000, 1_500_000} {
		given := strings.Repeat(string(rune('a'+c.number)), size)
		c.check(c.text("select $1::text", given) == given, "large value of %d", size)
	}
	rows, err := c.conn.Query(ctx, "select n, $1::int from generate_series(1, 5000) n", c.number)
	c.fine(err, "many rows")
	wanted := 1
	for ; rows.Next(); wanted++ {
		var n, own int
		c.fine(rows.Scan(&n, &own), "row")
		c.check(n == wanted && own == c.number, "row %d: %d %d", wanted, n, own)
	}
	c.fine(rows.Err(), "many rows")
	c.check(wanted == 5001, "%d rows", wanted)
}

func (c *client) settings() {
	name := fmt.Sprintf("pgx %d", c.number)
	c.exec("set application_name to '" + name + "'")
	for round := 0; round < 10; round++ {
		c.check(c.text("select current_setting('application_name')") == name, "application_name")
		c.check(c.conn.PgConn().ParameterStatus("application_name") == name, "told")
	}
}

func (c *client) changedTable() {
	changing := c.table() + "_changing"
	c.exec("create table " + changing + " (n int)")
	c.exec("insert into "+changing+" values ($1)", c.number)
	for columns := 1; columns <= 3; columns++ {
		for run := 0; run < 12; run++ {
			got, err := c.columns("select * from " + changing)
			var from *pgconn.PgError
			if err != nil {
				c.check(errors.As(err, &from), "changed table: %v", err)
				// 08P01: as many formats of results as there were columns.
				isStale := from.Code == "0A000" || from.Code == "08P01"
				isFirst := columns > 1 && run == 0
				// Without a statement on the server the driver does not learn of the change.
				isBlind := c.mode == "describe" && from.Code == "08P01"
				c.check(isStale && (isFirst || isBlind), "changed table: %v", err)
				continue
			}
			c.check(got == columns, "%d columns, wanted %d", got, columns)
		}
		c.exec(fmt.Sprintf("alter table %s add column c%d int", changing, columns))
	}
	c.exec("drop table " + changing)
}

// How many columns the only row has.
func (c *client) columns(sql string) (int, error) {
	rows, err := c.conn.Query(ctx, sql)
	if err != nil {
		return 0, err
	}
	count := 0
	for rows.Next() {
		raw := rows.RawValues()
		count = len(raw)
	}
	return count, rows.Err()
}

func (c *client) cancel() {
	done := make(chan struct{})
	var canceller sync.WaitGroup
	canceller.Add(1)
	go func() {
		defer canceller.Done()
		// A request has no effect before the statement runs; so it is repeated.
		for {
			c.fine(c.conn.PgConn().CancelRequest(ctx), "cancel")
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	_, err := c.conn.Exec(ctx, "select pg_sleep(30)")
	close(done)
	canceller.Wait()
	c.fails(err, "57014")
	c.check(c.text("select $1::text", "after") == "after", "after a cancel")
}

// The driver closes a connection whose context has ended while it waits.
func (c *client) giveUp() {
	other := open(c.number)
	limited, end := context.WithTimeout(ctx, 100*time.Millisecond)
	defer end()
	_, err := other.conn.Exec(limited, "select pg_sleep(30)")
	c.check(err != nil && limited.Err() != nil, "not given up: %v", err)
	<-other.conn.PgConn().CleanupDone()
	c.check(c.text("select $1::text", "there") == "there", "after giving up")
}

func open(number int) *client {
	c := &client{number: number, mode: modes[number%len(modes)]}
	options := "sslmode=" + sslMode() + " statement_cache_capacity=20"
	if c.mode != "simple" {
		options += " statement_cache_mode=" + c.mode
	}
	config, err := pgx.ParseConfig(options)
	c.fine(err, "configuration")
	config.PreferSimpleProtocol = c.mode == "simple"
	c.conn, err = pgx.ConnectConfig(ctx, config)
	c.fine(err, "connect")
	return c
}

func run(number int) {
	c := open(number)
	c.reuseStatements()
	c.useManyStatements()
	c.batches()
	c.transactions()
	c.copyIn()
	if c.mode != "simple" {
		c.types()
	}
	c.largeData()
	c.settings()
	c.changedTable()
	c.cancel()
	c.giveUp()
	c.exec("drop table " + c.table())
	c.fine(c.conn.Close(ctx), "close")
}

// The pool of the driver above the pooler.
func runPool() {
	c := &client{number: -1, mode: "pool"}
	config, err := pgxpool.ParseConfig("sslmode=" + sslMode() + " pool_max_conns=10")
	c.fine(err, "configuration")
	pool, err := pgxpool.ConnectConfig(ctx, config)
	c.fine(err, "connect")
	defer pool.Close()
	var tasks sync.WaitGroup
	for task := 0; task < 20; task++ {
		tasks.Add(1)
		go func(task int) {
			defer tasks.Done()
			for round := 0; round < rounds; round++ {
				var value int
				row := pool.QueryRow(ctx, "select $1::int * 3", task*1000+round)
				c.fine(row.Scan(&value), "pool")
				c.check(value == 3*(task*1000+round), "pool: %d", value)
			}
		}(task)
	}
	tasks.Wait()
}

// Plain unless PGSSLMODE says otherwise.
func sslMode() string {
	if mode := os.Getenv("PGSSLMODE"); mode != "" {
		return mode
	}
	return "disable"
}

func main() {
	var running sync.WaitGroup
	for number := 0; number < clients; number++ {
		running.Add(1)
		go func(number int) {
			defer running.Done()
			run(number)
		}(number)
	}
	running.Wait()
	runPool()
	fmt.Println("fine")
}
