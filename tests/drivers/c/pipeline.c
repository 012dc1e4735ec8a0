/*
 * libpq in pipeline mode through a pooler: many clients, fewer servers.
 *
 * Owns: the clients and what each of them expects.
 * Does not own: where the server is (PGHOST and the like).
 * Invariants: a client counts its own values; whatever is not its own ends the program with an
 * error.
 *
 * Source: libpq-pipeline-mode.html, libpq-async.html, libpq-cancel.html.
 */

#include <libpq-fe.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CLIENTS = 10, ROUNDS = 60 };

struct client {
    int number;
    PGconn *conn;
};

static void fail(const struct client *c, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "client %d: ", c->number);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, " (%s)\n", PQerrorMessage(c->conn));
    va_end(arguments);
    exit(1);
}

/* Whether a call that queues something could do it. */
static void sent(const struct client *c, int is_sent, const char *what) {
    if (!is_sent)
        fail(c, "cannot send %s", what);
}

/* The next result, which must have the status. */
static PGresult *expect(const struct client *c, ExecStatusType status, const char *what) {
    PGresult *result = PQgetResult(c->conn);
    ExecStatusType got = result ? PQresultStatus(result) : PGRES_EMPTY_QUERY;
    if (!result || got != status)
        fail(c, "%s: wanted %s, got %s: %s", what, PQresStatus(status),
             result ? PQresStatus(got) : "nothing", result ? PQresultErrorMessage(result) : "");
    return result;
}

/* The end of the results of one command. */
static void expect_end(const struct client *c, const char *what) {
    PGresult *result = PQgetResult(c->conn);
    if (result)
        fail(c, "%s: more results: %s %s", what, PQresStatus(PQresultStatus(result)),
             PQresultErrorMessage(result));
}

static void expect_done(const struct client *c, ExecStatusType status, const char *what) {
    PQclear(expect(c, status, what));
    expect_end(c, what);
}

/* One row with one value. */
static void expect_value(const struct client *c, const char *wanted, const char *what) {
    PGresult *result = expect(c, PGRES_TUPLES_OK, what);
    if (PQntuples(result) != 1 || strcmp(PQgetvalue(result, 0, 0), wanted) != 0)
        fail(c, "%s: wanted %s, got %d rows, %s", what, wanted, PQntuples(result),
             PQntuples(result) > 0 ? PQgetvalue(result, 0, 0) : "");
    PQclear(result);
    expect_end(c, what);
}

/* An error with the SQLSTATE. */
static void expect_error(const struct client *c, const char *sqlstate, const char *what) {
    PGresult *result = expect(c, PGRES_FATAL_ERROR, what);
    const char *got = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    if (!got || strcmp(got, sqlstate) != 0)
        fail(c, "%s: wanted error %s, got %s", what, sqlstate, got ? got : "none");
    PQclear(result);
    expect_end(c, what);
}

static void expect_sync(const struct client *c, const char *what) {
    PQclear(expect(c, PGRES_PIPELINE_SYNC, what));
}

static void send_query(const struct client *c, const char *sql) {
    sent(c, PQsendQueryParams(c->conn, sql, 0, NULL, NULL, NULL, NULL, 0), sql);
}

static void send_prepared(const struct client *c, const char *name, const char *value) {
    const char *values[1] = {value};
    sent(c, PQsendQueryPrepared(c->conn, name, 1, values, NULL, NULL, 0), name);
}

static void send_sync(const struct client *c) {
    sent(c, PQpipelineSync(c->conn), "sync");
}

/* A statement of its own and one that all clients have are used again in many transactions. */
static void reuse_statements(const struct client *c) {
    char own[128];
    snprintf(own, sizeof own, "select $1::text || ' of client %d'", c->number);
    sent(c, PQsendPrepare(c->conn, "own", own, 0, NULL), "own");
    sent(c, PQsendPrepare(c->conn, "shared", "select $1::int * 2", 0, NULL), "shared");
    send_sync(c);
    expect_done(c, PGRES_COMMAND_OK, "prepare own");
    expect_done(c, PGRES_COMMAND_OK, "prepare shared");
    expect_sync(c, "prepare");
    for (int round = 0; round < ROUNDS; round++) {
        char value[32], wanted[160];
        /* Several pipelines, each with a transaction of its own, before any answer is read. */
        for (int step = 0; step < 4; step++) {
            snprintf(value, sizeof value, "%d", round * 1000 + step * 100 + c->number);
            send_prepared(c, "own", value);
            send_prepared(c, "shared", value);
            send_query(c, "select 'unnamed'");
            send_sync(c);
        }
        for (int step = 0; step < 4; step++) {
            int number = round * 1000 + step * 100 + c->number;
            snprintf(wanted, sizeof wanted, "%d of client %d", number, c->number);
            expect_value(c, wanted, "own");
            snprintf(wanted, sizeof wanted, "%d", number * 2);
            expect_value(c, wanted, "shared");
            expect_value(c, "unnamed", "unnamed");
            expect_sync(c, "reuse");
        }
    }
    sent(c, PQsendDescribePrepared(c->conn, "shared"), "describe");
    send_sync(c);
    PGresult *result = expect(c, PGRES_COMMAND_OK, "describe");
    if (PQnparams(result) != 1 || PQparamtype(result, 0) != 23 || PQnfields(result) != 1)
        fail(c, "describe: wrong description");
    PQclear(result);
    expect_end(c, "describe");
    expect_sync(c, "describe");
}

/* What stands behind an error is skipped up to its sync; what stands behind that runs. */
static void recover_from_errors(const struct client *c) {
    for (int round = 0; round < ROUNDS / 4; round++) {
        char name[32], sql[64], wanted[96];
        snprintf(name, sizeof name, "late_%d", round);
        snprintf(sql, sizeof sql, "select $1 || ' late %d %d'", c->number, round);
        send_prepared(c, "shared", "1");
        send_prepared(c, "shared", "no number");
        sent(c, PQsendPrepare(c->conn, name, sql, 0, NULL), name);
        send_prepared(c, "own", "never");
        send_sync(c);
        sent(c, PQsendPrepare(c->conn, name, sql, 0, NULL), name);
        send_prepared(c, name, "value");
        send_query(c, "select 1 / 0");
        send_query(c, "select 'never'");
        send_sync(c);
        send_prepared(c, name, "again");
        send_prepared(c, "own", "fine");
        send_sync(c);

        expect_value(c, "2", "before the error");
        expect_error(c, "22P02", "no number");
        expect_done(c, PGRES_PIPELINE_ABORTED, "skipped definition");
        expect_done(c, PGRES_PIPELINE_ABORTED, "skipped use");
        expect_sync(c, "first error");
        expect_done(c, PGRES_COMMAND_OK, "definition after the error");
        snprintf(wanted, sizeof wanted, "value late %d %d", c->number, round);
        expect_value(c, wanted, "late");
        expect_error(c, "22012", "division");
        expect_done(c, PGRES_PIPELINE_ABORTED, "skipped query");
        expect_sync(c, "second error");
        snprintf(wanted, sizeof wanted, "again late %d %d", c->number, round);
        expect_value(c, wanted, "again");
        snprintf(wanted, sizeof wanted, "fine of client %d", c->number);
        expect_value(c, wanted, "own");
        expect_sync(c, "recovered");
    }
}

/* Transactions over several syncs, with a savepoint, on a table of the client's own. */
static void keep_transactions(const struct client *c, const char *table) {
    char insert[96], count[96];
    snprintf(insert, sizeof insert, "insert into %s values ($1::int)", table);
    snprintf(count, sizeof count, "select count(*), sum($1::int) from %s", table);
    sent(c, PQsendPrepare(c->conn, "insert", insert, 0, NULL), "insert");
    sent(c, PQsendPrepare(c->conn, "count", count, 0, NULL), "count");
    send_sync(c);
    expect_done(c, PGRES_COMMAND_OK, "prepare insert");
    expect_done(c, PGRES_COMMAND_OK, "prepare count");
    expect_sync(c, "prepare");
    for (int round = 0; round < ROUNDS / 6; round++) {
        send_query(c, "begin");
        send_prepared(c, "insert", "1");
        send_query(c, "savepoint here");
        send_sync(c);
        send_prepared(c, "insert", "no number");
        send_sync(c);
        send_query(c, "rollback to here");
        send_prepared(c, "insert", "2");
        send_query(c, round % 2 ? "commit" : "rollback");
        send_sync(c);
        send_prepared(c, "count", "1");
        send_sync(c);

        expect_done(c, PGRES_COMMAND_OK, "begin");
        expect_done(c, PGRES_COMMAND_OK, "first row");
        expect_done(c, PGRES_COMMAND_OK, "savepoint");
        expect_sync(c, "first part");
        expect_error(c, "22P02", "no number");
        expect_sync(c, "failed part");
        expect_done(c, PGRES_COMMAND_OK, "back to the savepoint");
        expect_done(c, PGRES_COMMAND_OK, "second row");
        expect_done(c, PGRES_COMMAND_OK, "end of the transaction");
        expect_sync(c, "third part");
        char wanted[32];
        snprintf(wanted, sizeof wanted, "%d", (round + 1) / 2 * 2);
        expect_value(c, wanted, "count");
        expect_sync(c, "count");
    }
}

/* Whether something can be read at once or before long. */
static void read_what_comes(const struct client *c) {
    struct pollfd ready = {.fd = PQsocket(c->conn), .events = POLLIN};
    if (poll(&ready, 1, 10000) != 1 || !PQconsumeInput(c->conn))
        fail(c, "nothing came after a flush");
}

/* Answers come at a flush request, before any sync. */
static void flush_without_sync(const struct client *c) {
    send_query(c, "begin");
    for (int round = 0; round < 10; round++) {
        char value[32], wanted[96];
        snprintf(value, sizeof value, "flush %d", round);
        send_prepared(c, "own", value);
        sent(c, PQsendFlushRequest(c->conn), "flush request");
        if (PQflush(c->conn) < 0)
            fail(c, "flush");
        if (round == 0)
            expect_done(c, PGRES_COMMAND_OK, "begin");
        while (PQisBusy(c->conn))
            read_what_comes(c);
        snprintf(wanted, sizeof wanted, "%s of client %d", value, c->number);
        expect_value(c, wanted, "own, flushed");
    }
    send_query(c, "commit");
    send_sync(c);
    expect_done(c, PGRES_COMMAND_OK, "commit");
    expect_sync(c, "flushed");
}

/* Values of every kind, in text and binary, NULL among them. */
static void pass_types(const struct client *c) {
    const char *sql = "select $1::jsonb ->> 'n', $2::int[], $3::timestamptz at time zone 'UTC', "
                      "$4::bytea, $5::numeric + 0.001, $6::text is null, $6::text";
    const char bytes[] = {0, (char)c->number, 0, (char)0xff};
    const char *values[] = {"{\"n\": [1, null]}", "{1,NULL,3}", "2024-02-29 12:00:00.000001+02",
                            bytes, "12345678901234567890.5", NULL};
    const int lengths[] = {0, 0, 0, sizeof bytes, 0, 0};
    const int formats[] = {0, 0, 0, 1, 0, 0};
    char bytes_as_text[16];
    snprintf(bytes_as_text, sizeof bytes_as_text, "\\x00%02x00ff", c->number);
    const char *wanted[] = {"[1, null]", "{1,NULL,3}", "2024-02-29 10:00:00.000001",
                            bytes_as_text, "12345678901234567890.501", "t"};
    sent(c, PQsendPrepare(c->conn, "types", sql, 0, NULL), "types");
    for (int binary = 0; binary < 2; binary++)
        sent(c, PQsendQueryPrepared(c->conn, "types", 6, values, lengths, formats, binary), "types");
    send_sync(c);
    expect_done(c, PGRES_COMMAND_OK, "prepare types");
    PGresult *result = expect(c, PGRES_TUPLES_OK, "types as text");
    for (int column = 0; column < 6; column++)
        if (strcmp(PQgetvalue(result, 0, column), wanted[column]) != 0)
            fail(c, "types: column %d is %s", column, PQgetvalue(result, 0, column));
    if (!PQgetisnull(result, 0, 6))
        fail(c, "types: not NULL");
    PQclear(result);
    expect_end(c, "types as text");
    result = expect(c, PGRES_TUPLES_OK, "types in binary");
    if (PQgetlength(result, 0, 3) != sizeof bytes ||
        memcmp(PQgetvalue(result, 0, 3), bytes, sizeof bytes) != 0 || !PQgetisnull(result, 0, 6))
        fail(c, "types: wrong bytes");
    PQclear(result);
    expect_end(c, "types in binary");
    expect_sync(c, "types");
}

/* Long parameters, long values, and many rows one by one in the middle of a pipeline. */
static void pass_large_data(const struct client *c) {
    enum { LENGTH = 700000, ROWS = 3000 };
    char *long_value = malloc(LENGTH + 1);
    memset(long_value, 'a' + c->number, LENGTH);
    long_value[LENGTH] = 0;
    char rows[128];
    snprintf(rows, sizeof rows, "select n, %d from generate_series(1, %d) n", c->number, ROWS);
    send_prepared(c, "own", long_value);
    send_query(c, rows);
    send_prepared(c, "own", "behind");
    send_sync(c);
    PGresult *result = expect(c, PGRES_TUPLES_OK, "long value");
    if (PQgetlength(result, 0, 0) < LENGTH ||
        strncmp(PQgetvalue(result, 0, 0), long_value, LENGTH) != 0)
        fail(c, "long value: changed");
    PQclear(result);
    expect_end(c, "long value");
    free(long_value);
    if (!PQsetSingleRowMode(c->conn))
        fail(c, "single row mode");
    for (int row = 1; row <= ROWS; row++) {
        result = expect(c, PGRES_SINGLE_TUPLE, "row");
        if (atoi(PQgetvalue(result, 0, 0)) != row || atoi(PQgetvalue(result, 0, 1)) != c->number)
            fail(c, "row %d: got %s", row, PQgetvalue(result, 0, 0));
        PQclear(result);
    }
    expect_done(c, PGRES_TUPLES_OK, "rows");
    char wanted[64];
    snprintf(wanted, sizeof wanted, "behind of client %d", c->number);
    expect_value(c, wanted, "own");
    expect_sync(c, "large data");
}

/* A setting is the client's own, also behind a pipeline of others. */
static void keep_settings(const struct client *c) {
    char set[64], wanted[32];
    snprintf(wanted, sizeof wanted, "%d", 100 + c->number);
    snprintf(set, sizeof set, "set extra_float_digits to %d", c->number % 4);
    send_query(c, set);
    snprintf(set, sizeof set, "set application_name to '%s'", wanted);
    send_query(c, set);
    send_sync(c);
    expect_done(c, PGRES_COMMAND_OK, "set digits");
    expect_done(c, PGRES_COMMAND_OK, "set name");
    expect_sync(c, "set");
    if (strcmp(PQparameterStatus(c->conn, "application_name"), wanted) != 0)
        fail(c, "not told about application_name");
    for (int round = 0; round < 10; round++) {
        send_query(c, "select current_setting('application_name')");
        send_sync(c);
        expect_value(c, wanted, "application_name");
        expect_sync(c, "application_name");
    }
}

/* A statement whose table has changed fails once or more often, and works when defined anew. */
static void follow_changed_table(const struct client *c, const char *table) {
    char select[64], alter[96];
    snprintf(select, sizeof select, "select * from %s limit $1::int", table);
    snprintf(alter, sizeof alter, "alter table %s add word text default 'w'", table);
    sent(c, PQsendPrepare(c->conn, "all", select, 0, NULL), "all");
    send_prepared(c, "all", "1");
    send_sync(c);
    expect_done(c, PGRES_COMMAND_OK, "prepare all");
    expect_done(c, PGRES_TUPLES_OK, "all");
    expect_sync(c, "all");
    send_query(c, alter);
    send_sync(c);
    expect_done(c, PGRES_COMMAND_OK, "alter");
    expect_sync(c, "alter");
    for (int attempt = 0;; attempt++) {
        if (attempt > 6)
            fail(c, "the changed table stays unusable");
        send_query(c, "deallocate \"all\"");
        sent(c, PQsendPrepare(c->conn, "all", select, 0, NULL), "all");
        send_sync(c);
        expect_done(c, PGRES_COMMAND_OK, "deallocate");
        expect_done(c, PGRES_COMMAND_OK, "prepare all anew");
        expect_sync(c, "prepared anew");
        send_prepared(c, "all", "1");
        send_sync(c);
        PGresult *result = PQgetResult(c->conn);
        bool is_fine = PQresultStatus(result) == PGRES_TUPLES_OK;
        if (is_fine && PQnfields(result) != 2)
            fail(c, "the new column is missing");
        const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
        if (!is_fine && (!sqlstate || strcmp(sqlstate, "0A000") != 0))
            fail(c, "changed table: %s", PQresultErrorMessage(result));
        PQclear(result);
        expect_end(c, "all again");
        expect_sync(c, "all again");
        if (is_fine)
            return;
    }
}

/* A cancel request ends the client's own query and nothing else. */
static void cancel_own_query(const struct client *c) {
    char message[256];
    PGcancel *cancel = PQgetCancel(c->conn);
    send_prepared(c, "own", "before");
    sent(c, PQsendFlushRequest(c->conn), "flush request");
    send_query(c, "select pg_sleep(30)");
    send_query(c, "select 'never'");
    send_sync(c);
    if (PQflush(c->conn) < 0)
        fail(c, "flush");
    /* The server runs this client's messages once the first answer is here. */
    char wanted[64];
    snprintf(wanted, sizeof wanted, "before of client %d", c->number);
    expect_value(c, wanted, "own");
    /* A request that comes between two commands has no effect. */
    struct pollfd ready = {.fd = PQsocket(c->conn), .events = POLLIN};
    do {
        if (!PQcancel(cancel, message, sizeof message))
            fail(c, "cancel: %s", message);
    } while (poll(&ready, 1, 3000) == 0);
    PQfreeCancel(cancel);
    expect_error(c, "57014", "sleep");
    expect_done(c, PGRES_PIPELINE_ABORTED, "behind the sleep");
    expect_sync(c, "cancelled");
    send_prepared(c, "own", "after");
    send_sync(c);
    snprintf(wanted, sizeof wanted, "after of client %d", c->number);
    expect_value(c, wanted, "own");
    expect_sync(c, "after");
}

static void *run(void *argument) {
    struct client *c = argument;
    c->conn = PQconnectdb("");
    if (PQstatus(c->conn) != CONNECTION_OK)
        fail(c, "connect");
    char table[64], sql[128];
    snprintf(table, sizeof table, "c_pipeline_%d", c->number);
    snprintf(sql, sizeof sql, "create table %s (n int)", table);
    PGresult *result = PQexec(c->conn, sql);
    if (PQresultStatus(result) != PGRES_COMMAND_OK)
        fail(c, "create table");
    PQclear(result);
    if (!PQenterPipelineMode(c->conn))
        fail(c, "pipeline mode");
    reuse_statements(c);
    recover_from_errors(c);
    keep_transactions(c, table);
    flush_without_sync(c);
    pass_types(c);
    pass_large_data(c);
    keep_settings(c);
    follow_changed_table(c, table);
    cancel_own_query(c);
    if (!PQexitPipelineMode(c->conn))
        fail(c, "leave pipeline mode");
    snprintf(sql, sizeof sql, "drop table %s", table);
    PQclear(PQexec(c->conn, sql));
    PQfinish(c->conn);
    return NULL;
}

int main(void) {
    static struct client clients[CLIENTS];
    pthread_t threads[CLIENTS];
    for (int number = 0; number < CLIENTS; number++) {
        clients[number].number = number;
        if (pthread_create(&threads[number], NULL, run, &clients[number]) != 0)
            return 1;
    }
    for (int number = 0; number < CLIENTS; number++)
        pthread_join(threads[number], NULL);
    puts("fine");
    return 0;
}
