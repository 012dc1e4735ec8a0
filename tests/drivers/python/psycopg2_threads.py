"""psycopg2 with threads: simple queries, statements of SQL's PREPARE inside of transactions."""

import datetime as dt
import decimal
import io
import random
import threading

import psycopg2
import psycopg2.errors
import psycopg2.extensions
import psycopg2.extras
import psycopg2.pool

from checks import CLIENTS, check, equal, in_threads, name, run_checks


def connect(**keys):
    connection = psycopg2.connect("connect_timeout=20", **keys)
    connection.autocommit = True
    return connection


def one(connection, text, parameters=None):
    with connection.cursor() as cursor:
        cursor.execute(text, parameters)
        return cursor.fetchone()


def prepare_table(stem, columns):
    table = name(stem)
    connection = connect()
    with connection.cursor() as cursor:
        cursor.execute(f"drop table if exists {table}; create table {table} ({columns})")
    connection.close()
    return table


@check
def every_client_gets_its_own_values():
    def client(number):
        connection = connect()
        for turn in range(150):
            equal(one(connection, "select %s, %s", (number, turn)), (number, turn))
            if turn % 5 == 0:
                connection.autocommit = False
                with connection:
                    pid = one(connection, "select pg_backend_pid()")
                    equal(one(connection, "select %s::text", (f"{number}'{turn}",)),
                          (f"{number}'{turn}",))
                    equal(one(connection, "select pg_backend_pid()"), pid)
                connection.autocommit = True
        connection.close()

    in_threads(client)


@check
def statements_of_sql_live_in_transactions():
    def client(number):
        connection = connect()
        connection.autocommit = False
        for turn in range(10):
            with connection, connection.cursor() as cursor:
                # The same names for everybody.
                cursor.execute(f"prepare plan{turn} (int) as select $1 * {number}")
                for n in range(5):
                    cursor.execute(f"execute plan{turn} (%s)", (n,))
                    equal(cursor.fetchone(), (n * number,))
                if turn % 2:
                    cursor.execute(f"deallocate plan{turn}")
        connection.close()

    in_threads(client)


@check
def errors_leave_the_client_usable():
    table = prepare_table("errors", "client int, n int, unique (client, n)")

    def client(number):
        connection = connect()
        connection.autocommit = False
        insert = f"insert into {table} values (%s, %s)"
        for turn in range(15):
            with connection, connection.cursor() as cursor:
                cursor.execute(insert, (number, turn))
                cursor.execute("savepoint s")
                try:
                    cursor.execute(insert, (number, turn))
                    raise AssertionError("no error")
                except psycopg2.errors.UniqueViolation:
                    cursor.execute("rollback to savepoint s")
            for text, error in (("selct 1", psycopg2.errors.SyntaxError),
                                ("select 1; select 1/0; select 2", psycopg2.errors.DivisionByZero)):
                try:
                    with connection, connection.cursor() as cursor:
                        cursor.execute(insert, (number, 1000))
                        cursor.execute(text)
                    raise AssertionError("no error")
                except error:
                    pass
        connection.autocommit = True
        equal(one(connection, f"select count(*) from {table} where client = %s", (number,)), (15,))
        connection.close()

    in_threads(client)


@check
def copies_and_cursors_are_the_clients_own():
    table = prepare_table("copies", "client int, n int, word text")

    def client(number):
        connection = connect()
        with connection.cursor() as cursor:
            lines = "".join(f"{number}\t{n}\t{'w' * (n % 90)}\n" for n in range(3000))
            cursor.copy_expert(f"copy {table} from stdin", io.StringIO(lines))
            out = io.StringIO()
            cursor.copy_expert(
                f"copy (select * from {table} where client = {number} order by n) to stdout", out)
            equal(out.getvalue(), lines)
            try:
                cursor.copy_expert(f"copy {table} from stdin", io.StringIO("no\tnumber\tx\n"))
                raise AssertionError("no error")
            except psycopg2.errors.InvalidTextRepresentation:
                pass
            psycopg2.extras.execute_values(
                cursor, f"insert into {table} values %s",
                [(number, n, None) for n in range(3000, 3500)])
            psycopg2.extras.execute_batch(
                cursor, f"insert into {table} values (%s, %s, %s)",
                [(number, n, None) for n in range(3500, 4000)])
        connection.autocommit = False
        with connection, connection.cursor("same_name") as cursor:
            cursor.itersize = 500
            cursor.execute(f"select n from {table} where client = %s order by n", (number,))
            equal([n for n, in cursor], list(range(4000)))
        connection.close()

    in_threads(client)


@check
def a_cancel_request_reaches_its_own_query():
    def client(number):
        connection = connect()
        if number % 4:
            for turn in range(60):
                equal(one(connection, "select %s", (turn,)), (turn,))
            connection.close()
            return
        is_over = threading.Event()

        def cancel():
            while not is_over.wait(0.05):
                connection.cancel()

        canceller = threading.Thread(target=cancel)
        canceller.start()
        try:
            one(connection, "select pg_sleep(60)")
            raise AssertionError("not cancelled")
        except psycopg2.errors.QueryCanceled:
            pass
        finally:
            is_over.set()
            canceller.join()
        equal(one(connection, "select %s", (number,)), (number,))
        connection.close()

    in_threads(client)


@check
def values_of_all_types_come_back():
    values = [
        (True, "bool"), (2**63 - 1, "int8"), (decimal.Decimal("-1.000000000000000000001"), "numeric"),
        ("žluť 'x' \\ \"y\" %s", "text"), (dt.date(2024, 2, 29), "date"),
        (dt.datetime(1999, 12, 31, 23, 59, 59, 123456), "timestamp"),
        (dt.datetime(2024, 2, 29, tzinfo=dt.timezone.utc), "timestamptz"),
        (dt.timedelta(days=-3, microseconds=7), "interval"),
        ([1, None, 3], "int4[]"), (["a", "b,", '"'], "text[]"), (None, "text"),
    ]

    def client(number):
        connection = connect()
        for value, kind in values[number:] + values[:number]:
            equal(one(connection, f"select %s::{kind}", (value,)), (value,))
        data = random.Random(number).randbytes(700_000)
        assert bytes(one(connection, "select %s::bytea", (psycopg2.Binary(data),))[0]) == data
        document = {"client": number, "list": [1, None, "ž"]}
        equal(one(connection, "select %s::jsonb", (psycopg2.extras.Json(document),)), (document,))
        with connection.cursor() as cursor:
            cursor.execute("select g, %s from generate_series(1, 20000) g", (str(number) * 20,))
            rows = cursor.fetchall()
            equal(len(rows), 20000)
            equal({word for _, word in rows}, {str(number) * 20})
        connection.close()

    in_threads(client)


@check
def settings_follow_the_client():
    def client(number):
        zone = ["UTC", "Asia/Tokyo", "America/New_York"][number % 3]
        connection = connect(application_name=f"client {number}",
                             options=f"-c search_path=public,app{number} -c IntervalStyle=iso_8601")
        connection.set_client_encoding("latin1" if number % 2 else "utf8")
        with connection.cursor() as cursor:
            cursor.execute("set time zone %s", (zone,))
        for _ in range(10):
            shown = one(connection, "select current_setting('TimeZone'), 'é',"
                        " current_setting('search_path'), current_setting('IntervalStyle')")
            equal(shown, (zone, "é", f"public,app{number}", "iso_8601"))
            equal(one(connection, "show application_name")[0], f"client {number}")
        connection.set_session(isolation_level="SERIALIZABLE", readonly=True, autocommit=False)
        with connection:
            equal(one(connection, "show transaction_isolation"), ("serializable",))
            equal(one(connection, "show transaction_read_only"), ("on",))
        connection.close()

    in_threads(client)


@check
def a_pool_of_the_driver_stands_on_the_poolers():
    pool = psycopg2.pool.ThreadedConnectionPool(2, CLIENTS, "connect_timeout=20")

    def client(number):
        for turn in range(20):
            connection = pool.getconn()
            equal(one(connection, "select %s, %s", (number, turn)), (number, turn))
            # The driver rolls back what is open, or says DISCARD ALL's like.
            if turn % 3:
                connection.reset()
            pool.putconn(connection)

    in_threads(client)
    pool.closeall()


run_checks()
