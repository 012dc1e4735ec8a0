// lib/pq through a pooler: many clients, fewer servers.
//
// Owns: the clients and what each of them expects.
// Does not own: where the server is (PGHOST and the like).
// Invariants: a client counts its own values; whatever is not its own ends the program with an
// error.
//
// Source: the documentation of lib/pq (binary_parameters, CopyIn) and of database/sql.
package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/lib/pq"
)

const (
	clients = 12
	rounds  = 60
	// Servers of the pooler. A changed table may be refused once by each that has the statement.
	servers = 3
)

// A client has one connection, like a program without a pool of its own.
type client struct {
	number int
	conn   *sql.Conn
}

var ctx = context.Background()

func (c *client) check(holds bool, format string, values ...interface{}) {
	if !holds {
		fmt.Fprintf(os.Stderr, "client %d: %s\n", c.number, fmt.Sprintf(format, values...))
		os.Exit(1)
	}
}

func (c *client) fine(err error, what string) {
	c.check(err == nil, "%s: %v", what, err)
}

func (c *client) fails(err error, sqlstate string) {
	var from *pq.Error
	c.check(errors.As(err, &from) && string(from.Code) == sqlstate, "wanted error %s, got %v",
		sqlstate, err)
}

func (c *client) exec(query string, arguments ...interface{}) {
	_, err := c.conn.ExecContext(ctx, query, arguments...)
	c.fine(err, query)
}

func (c *client) text(query string, arguments ...interface{}) string {
	var value string
	c.fine(c.conn.QueryRowContext(ctx, query, arguments...).Scan(&value), query)
	return value
}

func (c *client) table() string {
	return fmt.Sprintf("go_libpq_%d", c.number)
}

func (c *client) reuseStatements() {
	for define := 0; define < 3; define++ {
		query := fmt.Sprintf("select $1::text || ' of %d'", c.number)
		own, err := c.conn.PrepareContext(ctx, query)
		c.fine(err, "prepare")
		for round := 0; round < rounds; round++ {
			given := fmt.Sprintf("round %d", round)
			var got string
			c.fine(own.QueryRowContext(ctx, given).Scan(&got), "own")
			c.check(got == fmt.Sprintf("%s of %d", given, c.number), "own: %s", got)
			// Without a name: Parse, Describe, Sync, and then Bind in another transaction.
			var double int
			row := c.conn.QueryRowContext(ctx, "select $1::int * 2", round*100+c.number)
			c.fine(row.Scan(&double), "unnamed")
			c.check(double == 2*(round*100+c.number), "unnamed: %d", double)
		}
		c.fine(own.Close(), "close")
	}
}

func (c *client) recover() {
	divide, err := c.conn.PrepareContext(ctx, "select 100 / $1::int")
	c.fine(err, "prepare")
	for round := 0; round < rounds/3; round++ {
		var got int
		c.fails(divide.QueryRowContext(ctx, 0).Scan(&got), "22012")
		c.fails(divide.QueryRowContext(ctx, "no number").Scan(&got), "22P02")
		_, err := c.conn.ExecContext(ctx, "selec")
		c.fails(err, "42601")
		_, err = c.conn.PrepareContext(ctx, "select * from nowhere_at_all where n = $1")
		c.fails(err, "42P01")
		c.fine(divide.QueryRowContext(ctx, 4).Scan(&got), "divide")
		c.check(got == 25, "after errors: %d", got)
	}
	c.fine(divide.Close(), "close")
}

func (c *client) transactions() {
	c.exec("create table " + c.table() + " (n int, word text)")
	for round := 0; round < rounds/4; round++ {
		tx, err := c.conn.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead})
		c.fine(err, "begin")
		insert, err := tx.PrepareContext(ctx, "insert into "+c.table()+" values ($1, $2)")
		c.fine(err, "prepare insert")
		_, err = insert.ExecContext(ctx, 1, nil)
		c.fine(err, "insert")
		_, err = tx.ExecContext(ctx, "savepoint here")
		c.fine(err, "savepoint")
		_, err = tx.ExecContext(ctx, "select 1 / $1::int", 0)
		c.fails(err, "22012")
		_, err = tx.ExecContext(ctx, "rollback to savepoint here")
		c.fine(err, "rollback to savepoint")
		_, err = insert.ExecContext(ctx, 2, "two")
		c.fine(err, "insert after the savepoint")
		if round%2 == 0 {
			c.fine(tx.Commit(), "commit")
		} else {
			c.fine(tx.Rollback(), "rollback")
		}
	}
	var rows, words int
	count := "select count(*), count(word) from " + c.table()
	c.fine(c.conn.QueryRowContext(ctx, count).Scan(&rows, &words), "count")
	c.check(rows == (rounds/4+1)/2*2 && words == rows/2, "transactions: %d %d", rows, words)
}

func (c *client) copyIn() {
	tx, err := c.conn.BeginTx(ctx, nil)
	c.fine(err, "begin")
	copying, err := tx.PrepareContext(ctx, pq.CopyIn(c.table(), "n", "word"))
	c.fine(err, "copy")
	for row := 0; row < 2000; row++ {
		_, err = copying.ExecContext(ctx, row, "copied")
		c.fine(err, "row")
	}
	_, err = copying.ExecContext(ctx)
	c.fine(err, "end of the rows")
	c.fine(copying.Close(), "end of copy")
	c.fine(tx.Commit(), "commit")
	count := "select count(*)::text from " + c.table() + " where word = $1"
	c.check(c.text(count, "copied") == "2000", "copied rows")
}

func (c *client) types() {
	at := time.Date(2024, 2, 29, 12, 34, 56, 789012000, time.UTC)
	blob := []byte{0, byte(c.number), 255, '\\'}
	query := `select $1::jsonb ->> 'n', $2::int[], $3::timestamptz, $4::bytea, $5::numeric::text,
		$6::text, $7::float8`
	for round := 0; round < 5; round++ {
		var object, number string
		var array []int64
		var moment time.Time
		var gotBlob []byte
		var null sql.NullString
		var float float64
		row := c.conn.QueryRowContext(ctx, query, fmt.Sprintf(`{"n": %d}`, c.number),
			pq.Array([]int64{1, int64(c.number)}), at, blob, "12345678901234567890.0123456789", nil, 0.1)
		c.fine(row.Scan(&object, pq.Array(&array), &moment, &gotBlob, &number, &null, &float), "types")
		c.check(object == fmt.Sprint(c.number), "json: %v", object)
		c.check(len(array) == 2 && array[1] == int64(c.number), "array: %v", array)
		c.check(moment.Equal(at), "time: %v", moment)
		c.check(bytes.Equal(gotBlob, blob), "bytes: %v", gotBlob)
		c.check(number == "12345678901234567890.0123456789", "numeric: %v", number)
		c.check(!null.Valid && float == 0.1, "NULL or float: %v %v", null, float)
	}
}

func (c *client) largeData() {
	for _, size := range []int{10, 20_000, 1_500_000} {
		given := strings.Repeat(string(rune('a'+c.number)), size)
		c.check(c.text("select $1::text", given) == given, "large value of %d", size)
	}
	rows, err := c.conn.QueryContext(ctx, "select n, $1::int from generate_series(1, 5000) n", c.number)
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
	name := fmt.Sprintf("lib/pq %d", c.number)
	c.exec("set application_name to '" + name + "'")
	c.exec("set timezone to 'Asia/Tokyo'")
	for round := 0; round < 10; round++ {
		c.check(c.text("select current_setting('application_name')") == name, "application_name")
		c.check(c.text("show timezone") == "Asia/Tokyo", "timezone")
	}
}

// Known gap: a statement of a changed table is refused once by every server that has it, also when
// it has been defined anew. PostgreSQL alone refuses only the old one.
func (c *client) changedTable() {
	changing := c.table() + "_changing"
	c.exec("create table " + changing + " (n int)")
	c.exec("insert into "+changing+" values ($1)", c.number)
	refusals := 0
	for columns := 1; columns <= 3; columns++ {
		for run := 0; run < 12; run++ {
			rows, err := c.conn.QueryContext(ctx, "select * from "+changing+" where n = $1", c.number)
			if err != nil {
				c.fails(err, "0A000")
				refusals++
				continue
			}
			c.check(rows.Next(), "no row of the changed table: %v", rows.Err())
			names, err := rows.Columns()
			c.check(err == nil && len(names) == columns, "%d columns", len(names))
			c.fine(rows.Close(), "close")
		}
		c.exec(fmt.Sprintf("alter table %s add column c%d int", changing, columns))
	}
	c.check(refusals <= 2*servers, "refused %d times", refusals)
	c.exec("drop table " + changing)
}

// The driver asks for a cancel when the context ends, once; in a transaction the client has a
// server, so that the request is not lost.
func (c *client) cancel() {
	tx, err := c.conn.BeginTx(ctx, nil)
	c.fine(err, "begin")
	limited, end := context.WithTimeout(ctx, 200*time.Millisecond)
	defer end()
	_, err = tx.ExecContext(limited, "select pg_sleep(30)")
	c.check(err != nil, "not cancelled")
	c.check(strings.Contains(err.Error(), "canceling statement"), "cancelled: %v", err)
	// A cancelled connection is not used again by the driver.
	_ = tx.Rollback()
	c.conn.Close()
}

func run(number int, database *sql.DB) {
	c := &client{number: number}
	var err error
	c.conn, err = database.Conn(ctx)
	c.fine(err, "connect")
	c.reuseStatements()
	c.recover()
	c.transactions()
	c.copyIn()
	c.types()
	c.largeData()
	c.settings()
	c.changedTable()
	c.cancel()
	c.conn, err = database.Conn(ctx)
	c.fine(err, "connect again")
	c.check(c.text("select $1::text", "after") == "after", "after a cancel")
	c.exec("drop table " + c.table())
	c.fine(c.conn.Close(), "close")
}

// Plain unless PGSSLMODE says otherwise.
func sslMode() string {
	if mode := os.Getenv("PGSSLMODE"); mode != "" {
		return mode
	}
	return "disable"
}

func main() {
	var databases []*sql.DB
	// Of the second kind is one message group a query: Parse, Bind, Describe, Execute, Sync.
	for _, options := range []string{"", " binary_parameters=yes"} {
		database, err := sql.Open("postgres", "sslmode="+sslMode()+options)
		if err != nil {
			panic(err)
		}
		databases = append(databases, database)
	}
	var running sync.WaitGroup
	for number := 0; number < clients; number++ {
		running.Add(1)
		go func(number int) {
			defer running.Done()
			run(number, databases[number%len(databases)])
		}(number)
	}
	running.Wait()
	fmt.Println("fine")
}
