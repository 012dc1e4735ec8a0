"""psycopg 3 with threads: one connection a thread, more of them than servers."""

import datetime as dt
import decimal
import logging
import random
import threading
import uuid

import psycopg
from psycopg.rows import namedtuple_row
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.json import Jsonb
from psycopg.types.range import Range

from checks import CLIENTS, SERVERS_MAX, check, equal, in_threads, name, run_checks


# It tells of every pipeline that ends with an error, which is what some checks want.
logging.getLogger("psycopg").setLevel(logging.ERROR)


def connect(**keys):
    return psycopg.connect("connect_timeout=20", autocommit=True, **keys)


def prepare_table(stem, columns):
    table = name(stem)
    with connect() as connection:
        connection.execute(f"drop table if exists {table}")
        connection.execute(f"create table {table} ({columns})")
    return table


@check
def every_client_gets_its_own_values():
    def client(number):
        dice = random.Random(number)
        # Half of them prepare at once, the others from the third time on.
        with connect(prepare_threshold=2 * (number % 2)) as connection:
            connection.prepared_max = 5
            for turn in range(150):
                value = dice.randrange(10**9)
                kind = dice.randrange(4)
                if kind == 0:
                    row = connection.execute("select %s::int8 * 2, %s::text", (value, str(turn)))
                    equal(row.fetchone(), (2 * value, str(turn)))
                elif kind == 1:
                    # The name that the driver gives this is another client's name for its own.
                    row = connection.execute(f"select %s::int8 + {number}", (value,))
                    equal(row.fetchone(), (value + number,))
                elif kind == 2:
                    # More texts than the driver keeps: it closes the oldest.
                    text = f"select %s::int8, {turn % 9} as turn"
                    equal(connection.execute(text, (value,)).fetchone(), (value, turn % 9))
                else:
                    with connection.transaction():
                        pid = connection.execute("select pg_backend_pid()").fetchone()
                        row = connection.execute("select %s::int8 - 1", (value,), binary=True)
                        equal(row.fetchone(), (value - 1,))
                        equal(connection.execute("select pg_backend_pid()").fetchone(), pid)

    in_threads(client)


@check
def rows_of_many_writers_are_all_there():
    table = prepare_table("writers", "client int, turn int, primary key (client, turn)")

    def client(number):
        with connect(prepare_threshold=0) as connection:
            for turn in range(30):
                connection.execute(f"insert into {table} values (%s, %s)", (number, turn))
                mine = connection.execute(f"select count(*) from {table} where client = %s", [number])
                equal(mine.fetchone(), (turn + 1,))

    in_threads(client)
    with connect() as connection:
        count = connection.execute(f"select count(*) from {table}").fetchone()
        equal(count, (30 * CLIENTS,))


@check
def errors_leave_the_client_usable():
    table = prepare_table("errors", "n int primary key")

    def client(number):
        with connect(prepare_threshold=0) as connection:
            connection.execute(f"insert into {table} values (%s)", (number,))
            for turn in range(15):
                expect(psycopg.errors.UniqueViolation, connection,
                       f"insert into {table} values (%s)", (number,))
                expect(psycopg.errors.SyntaxError, connection, "selct %s", (turn,))
                expect(psycopg.errors.DivisionByZero, connection, "select 1 / %s::int", (0,))
                expect(psycopg.errors.UndefinedTable, connection, "select * from nowhere", ())
                equal(connection.execute("select 10 / %s::int", (5,)).fetchone(), (2,))
                try:
                    with connection.transaction():
                        connection.execute("select %s::int", (turn,))
                        expect(psycopg.errors.DivisionByZero, connection,
                               "select 1 / %s::int", (0,))
                        expect(psycopg.errors.InFailedSqlTransaction, connection,
                               "select %s::int", (turn,))
                except psycopg.errors.InFailedSqlTransaction:
                    pass
                equal(connection.execute("select %s::int", (turn,)).fetchone(), (turn,))

    in_threads(client)


def expect(error, connection, text, parameters):
    try:
        connection.execute(text, parameters)
    except error:
        return
    raise AssertionError(f"{text}: no {error.__name__}")


@check
def savepoints_roll_back_what_is_theirs():
    table = prepare_table("savepoints", "client int, n int")

    def client(number):
        with connect(prepare_threshold=0) as connection:
            insert = f"insert into {table} values (%s, %s)"
            for turn in range(10):
                with connection.transaction():
                    connection.execute(insert, (number, 2 * turn))
                    try:
                        with connection.transaction():
                            connection.execute(insert, (number, -1))
                            connection.execute("select 1 / %s::int", (0,))
                    except psycopg.errors.DivisionByZero:
                        pass
                    with connection.transaction():
                        connection.execute(insert, (number, -2))
                        raise psycopg.Rollback()
                    connection.execute(insert, (number, 2 * turn + 1))
            rows = connection.execute(
                f"select n from {table} where client = %s order by n", (number,)).fetchall()
            equal([n for n, in rows], list(range(20)))

    in_threads(client)


@check
def transactions_have_the_isolation_asked_for():
    def client(number):
        with psycopg.connect() as connection:
            connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            connection.read_only = number % 2 == 0
            for _ in range(5):
                shown = connection.execute(
                    "select current_setting('transaction_isolation'),"
                    " current_setting('transaction_read_only')").fetchone()
                equal(shown, ("serializable", "off" if number % 2 else "on"))
                connection.commit() if number % 3 else connection.rollback()

    in_threads(client)


@check
def pipelines_keep_their_order():
    table = prepare_table("pipelines", "client int, n int unique")

    def client(number):
        with connect(prepare_threshold=0) as connection:
            for turn in range(10):
                with connection.pipeline():
                    cursors = [connection.execute(f"select %s::int * {n % 3}", (n,))
                               for n in range(40)]
                equal([c.fetchone()[0] for c in cursors], [n * (n % 3) for n in range(40)])
                with connection.pipeline() as pipeline:
                    first = connection.execute("select %s::text", (f"{number}/{turn}",))
                    pipeline.sync()
                    second = connection.execute("select %s::text", (f"{turn}/{number}",))
                    equal(first.fetchone(), (f"{number}/{turn}",))
                    equal(second.fetchone(), (f"{turn}/{number}",))
                with connection.pipeline(), connection.transaction():
                    connection.execute(f"insert into {table} values (%s, %s)",
                                       (number, 1000 * number + turn))

    in_threads(client)
    with connect() as connection:
        equal(connection.execute(f"select count(*) from {table}").fetchone(), (10 * CLIENTS,))


@check
def pipelines_recover_from_errors():
    def client(number):
        with connect(prepare_threshold=0) as connection:
            for turn in range(10):
                cursors = []
                try:
                    with connection.pipeline() as pipeline:
                        cursors.append(connection.execute("select %s::int8", (number,)))
                        cursors.append(connection.execute("select 1 / %s::int4", (0,)))
                        # First prepared in a batch that is skipped.
                        cursors.append(connection.execute(f"select %s::int8 + {turn}", (turn,)))
                        pipeline.sync()
                    raise AssertionError("no error")
                except psycopg.errors.DivisionByZero:
                    pass
                equal(cursors[0].fetchone(), (number,))
                row = connection.execute(f"select %s::int8 + {turn}", (turn,))
                equal(row.fetchone(), (2 * turn,))
                try:
                    with connection.pipeline():
                        connection.execute("selct %s", (turn,))
                        connection.execute("select %s::int2", (turn,))
                    raise AssertionError("no error")
                except psycopg.errors.SyntaxError:
                    pass
                equal(connection.execute("select %s::int2", (turn,)).fetchone(), (turn,))

    in_threads(client)


@check
def many_rows_are_written_by_executemany():
    table = prepare_table("executemany", "client int, n int, word text")

    def client(number):
        with connect() as connection, connection.cursor() as cursor:
            rows = [(number, n, f"word {n}") for n in range(200)]
            cursor.executemany(
                f"insert into {table} values (%s, %s, %s) returning client, n", rows,
                returning=True)
            found = []
            while True:
                found += cursor.fetchall()
                if not cursor.nextset():
                    break
            equal(found, [(number, n) for n in range(200)])

    in_threads(client)


@check
def copies_go_in_and_out():
    table = prepare_table("copies", "client int, n int unique, word text")

    def client(number):
        with connect() as connection, connection.cursor() as cursor:
            first = number * 100_000
            with cursor.copy(f"copy {table} from stdin") as copy:
                for n in range(1000):
                    copy.write_row((number, first + n, None if n % 7 == 0 else f"w\t{n}"))
            with cursor.copy(f"copy {table} from stdin (format binary)") as copy:
                copy.set_types(["int4", "int4", "text"])
                for n in range(1000, 2000):
                    copy.write_row((number, first + n, f"w\t{n}"))
            try:
                with cursor.copy(f"copy {table} from stdin") as copy:
                    copy.write_row((number, first + 5000, "left in the middle"))
                    raise KeyError("given up")
            except KeyError:
                pass
            try:
                with cursor.copy(f"copy {table} from stdin") as copy:
                    for n in range(20_000):
                        copy.write_row((number, first + n % 10, "twice"))
                raise AssertionError("no error")
            except psycopg.errors.UniqueViolation:
                pass
            query = f"copy (select n, word from {table} where client = %s order by n) to stdout"
            with cursor.copy(query, (number,)) as copy:
                copy.set_types(["int4", "text"])
                rows = list(copy.rows())
            expected = [(first + n, None if n % 7 == 0 and n < 1000 else f"w\t{n}")
                        for n in range(2000)]
            equal(rows, expected)
            equal(cursor.execute("select %s::int", (number,)).fetchone(), (number,))

    in_threads(client)


@check
def cursors_on_servers_live_in_transactions():
    def client(number):
        with connect(prepare_threshold=0) as connection:
            for _ in range(3):
                with connection.transaction():
                    # Every client has a cursor of this name.
                    with connection.cursor("c", scrollable=True) as cursor:
                        cursor.itersize = 50
                        cursor.execute("select %s + g from generate_series(1, 500) g", (number,))
                        equal([n for n, in cursor], [number + n for n in range(1, 501)])
                        cursor.scroll(0, mode="absolute")
                        equal(cursor.fetchone(), (number + 1,))
                with connection.cursor() as cursor:
                    rows = cursor.stream("select g * %s from generate_series(1, 300) g", (number,))
                    equal(sum(n for n, in rows), number * 45150)

    in_threads(client)


@check
def changed_tables_are_read_again():
    table = prepare_table("changed", "a int")
    connections = [connect(prepare_threshold=0) for _ in range(CLIENTS)]
    query = f"select * from {table} where a = %s"
    errors = 0
    for change in range(4):
        connections[0].execute(f"insert into {table} (a) values (1)")
        for at in 4 * list(range(CLIENTS)):
            try:
                equal(len(connections[at].execute(query, (1,)).fetchone()), change + 1)
            except psycopg.errors.FeatureNotSupported as error:
                assert "cached plan must not change" in str(error)
                errors += 1
                # The driver does not prepare it anew.
                connections[at].close()
                connections[at] = connect(prepare_threshold=0)
        connections[0].execute(f"alter table {table} add column b{change} int")
    # Once for each client.
    assert errors <= 3 * CLIENTS, f"{errors} errors"
    for connection in connections:
        connection.close()


@check
def a_cancel_request_reaches_its_own_query():
    def client(number):
        with connect(prepare_threshold=0) as connection:
            if number % 5:
                for turn in range(60):
                    equal(connection.execute("select %s::int8", (turn,)).fetchone(), (turn,))
                return
            is_over = threading.Event()

            def cancel():
                while not is_over.wait(0.05):
                    connection.cancel_safe() if number else connection.cancel()

            canceller = threading.Thread(target=cancel)
            canceller.start()
            try:
                connection.execute("select pg_sleep(%s)", (60,))
                raise AssertionError("not cancelled")
            except psycopg.errors.QueryCanceled:
                pass
            finally:
                is_over.set()
                canceller.join()
            equal(connection.execute("select %s::int8", (number,)).fetchone(), (number,))

    in_threads(client)


# A driver cannot know that its query has not begun; one that asks once waits for all of it.
@check
def a_cancel_request_reaches_a_query_that_waits():
    holders = [connect() for _ in range(SERVERS_MAX)]
    for holder in holders:
        holder.execute("begin")
    outcome = []

    def wait():
        with connect(prepare_threshold=0) as connection:
            canceller.append(connection)
            try:
                outcome.append(connection.execute("select %s::int", (1,)).fetchone())
            except psycopg.errors.QueryCanceled as error:
                outcome.append(error)

    canceller = []
    waiter = threading.Thread(target=wait)
    waiter.start()
    for _ in range(20):
        waiter.join(0.05)
        if canceller and waiter.is_alive():
            canceller[0].cancel()
    for holder in holders:
        holder.execute("commit")
        holder.close()
    waiter.join()
    assert isinstance(outcome[0], psycopg.errors.QueryCanceled), outcome


@check
def timeouts_end_queries():
    def client(number):
        options = f"-c statement_timeout={100 if number % 2 else 0}"
        with connect(options=options, prepare_threshold=0) as connection:
            for _ in range(2):
                if number % 2:
                    expect(psycopg.errors.QueryCanceled, connection, "select pg_sleep(%s)", (10,))
                else:
                    # Asked for by others, not by this one.
                    connection.execute("select pg_sleep(%s)", (0.12,))
                try:
                    with connection.transaction():
                        connection.execute("set local statement_timeout = 20")
                        connection.execute("select pg_sleep(%s)", (10,))
                    raise AssertionError("no timeout")
                except psycopg.errors.QueryCanceled:
                    pass

    in_threads(client)


@check
def values_of_all_types_come_back():
    utc = dt.timezone.utc
    values = [
        (True, "bool"), (-(2**15), "int2"), (2**31 - 1, "int4"), (-(2**63), "int8"),
        (1.5e300, "float8"), (decimal.Decimal("-12345678901234567890.000000001"), "numeric"),
        (decimal.Decimal("NaN"), "numeric"), ("žluťoučký 🐎 'x' \\ \"y\"", "text"), ("", "text"),
        (bytes(range(256)) * 3, "bytea"), (b"", "bytea"),
        (dt.date(2024, 2, 29), "date"), (dt.time(23, 59, 59, 999999), "time"),
        (dt.datetime(1999, 12, 31, 23, 59, 59, 123456), "timestamp"),
        (dt.datetime(2024, 2, 29, 12, 0, 0, 1, tzinfo=utc), "timestamptz"),
        (dt.timedelta(days=-3, microseconds=7), "interval"), (uuid.UUID(int=2**127 + 5), "uuid"),
        ([1, None, 3], "int4[]"), ([["a", "b,"], ['"', "{}"]], "text[]"), ([], "int8[]"),
        (Range(1, 10, "[)"), "int4range"), (None, "int4"), (None, "text"),
    ]

    def client(number):
        order = values[number:] + values[:number]
        with connect(prepare_threshold=number % 3) as connection:
            connection.execute("set time zone 'UTC'")
            for binary in (False, True):
                for value, kind in order:
                    marker = "%b" if binary else "%t"
                    if binary and value is None:
                        marker = "%s"
                    row = connection.execute(
                        f"select {marker}::{kind}", (value,), binary=binary).fetchone()
                    if str(value) == "NaN":
                        assert row[0].is_nan()
                    else:
                        equal(row, (value,))
            document = {"client": number, "list": [1, None, "ž"], "deep": {"a": 1.5}}
            row = connection.execute("select %s::jsonb, %s::json", (Jsonb(document),) * 2)
            equal(row.fetchone(), (document, document))

    in_threads(client)


@check
def types_of_ones_own_are_known():
    kind = name("pair")
    with connect() as connection:
        connection.execute(f"drop type if exists {kind}")
        connection.execute(f"create type {kind} as (a int, b text)")

    def client(number):
        with connect(prepare_threshold=0) as connection:
            info = CompositeInfo.fetch(connection, kind)
            register_composite(info, connection)
            pair = info.python_type(number, f"number {number}")
            for _ in range(5):
                row = connection.execute(f"select %s::{kind}, array[%s]::{kind}[]", (pair, pair))
                equal(row.fetchone(), (pair, [pair]))

    in_threads(client)


@check
def large_values_and_results_arrive():
    def client(number):
        with connect(prepare_threshold=0, row_factory=namedtuple_row) as connection:
            text = f"{number}ž" * 1_000_000
            data = random.Random(number).randbytes(1_500_000)
            row = connection.execute("select %s::text as t, %b::bytea as b", (text, data),
                                     binary=True).fetchone()
            assert row.t == text and row.b == data
            rows = connection.execute(
                "select g as n, repeat(%s, 20) as word from generate_series(1, 10000) g",
                (str(number),)).fetchall()
            equal(sum(row.n for row in rows), 50005000)
            equal({row.word for row in rows}, {str(number) * 20})

    in_threads(client)


@check
def settings_follow_the_client():
    zones = ["UTC", "Asia/Tokyo", "America/New_York"]

    def client(number):
        zone = zones[number % 3]
        options = f"-c search_path=pg_temp,public,app{number} -c work_mem={number + 1}MB"
        with connect(options=options, application_name=f"client {number}",
                     prepare_threshold=0) as connection:
            for turn in range(12):
                if turn % 4 == 0:
                    zone = zones[(number + turn) % 3]
                    connection.execute(f"set time zone '{zone}'")
                row = connection.execute(
                    "select current_setting('TimeZone'), current_setting('search_path'),"
                    " current_setting('work_mem'), extract(hour from '2024-01-01Z'::timestamptz)")
                hour = {"UTC": 0, "Asia/Tokyo": 9, "America/New_York": 19}[zone]
                equal(row.fetchone(), (zone, f"pg_temp,public,app{number}",
                                       f"{number + 1}MB", hour))
                equal(connection.info.parameter_status("TimeZone"), zone)
                name_shown = connection.execute("show application_name").fetchone()[0]
                equal(name_shown, f"client {number}")
            connection.execute("set client_encoding to latin1")
            for _ in range(3):
                equal(connection.execute("select 'é' || %s::text", ("ü",)).fetchone(), ("éü",))

    in_threads(client)


run_checks()
