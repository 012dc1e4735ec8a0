"""asyncpg: its cache of statements, statements of one's own, cursors, COPY, its pool."""

import asyncio
import datetime as dt
import decimal
import io
import json
import random
import uuid

import asyncpg

from checks import CLIENTS, SERVERS_MAX, check, equal, in_tasks, name, run_checks


async def connect(**keys):
    return await asyncpg.connect(timeout=20, **keys)


async def prepare_table(stem, columns):
    table = name(stem)
    connection = await connect()
    await connection.execute(f"drop table if exists {table}; create table {table} ({columns})")
    await connection.close()
    return table


async def expect(error, awaitable):
    try:
        await awaitable
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


@check
async def every_client_gets_its_own_values():
    async def client(number):
        dice = random.Random(number)
        # A small cache, so that statements are closed; a third has none at all.
        connection = await connect(statement_cache_size=[100, 3, 0][number % 3])
        for turn in range(30):
            value = dice.randrange(10**9)
            equal(await connection.fetchval(f"select $1::int8 + {number}", value), value + number)
            row = await connection.fetchrow(f"select $1::text, {turn % 7} as turn", str(value))
            equal(tuple(row), (str(value), turn % 7))
            async with connection.transaction():
                pid = await connection.fetchval("select pg_backend_pid()")
                equal(await connection.fetchval("select $1::int8 * 2", value), 2 * value)
                equal(await connection.fetchval("select pg_backend_pid()"), pid)
        await connection.close()

    await in_tasks(client, 2 * CLIENTS)


@check
async def prepared_statements_outlive_transactions():
    async def client(number):
        connection = await connect()
        mine = await connection.prepare(f"select $1::int8 * {number + 1} as product")
        common = await connection.prepare("select $1::text as t, $2::int4[] as a")
        for turn in range(30):
            equal(await mine.fetchval(turn), turn * (number + 1))
            if turn % 3 == 0:
                async with connection.transaction(isolation="repeatable_read"):
                    row = await common.fetchrow(f"{number}.{turn}", [turn, None])
                    equal(tuple(row), (f"{number}.{turn}", [turn, None]))
            rows = await mine.fetchmany([(1,), (2,)])
            equal([row[0] for row in rows], [number + 1, 2 * (number + 1)])
        equal(mine.get_attributes()[0].name, "product")
        del mine, common
        equal(await connection.fetchval("select $1::int4", number), number)
        await connection.close()

    await in_tasks(client)


@check
async def errors_and_savepoints_leave_the_client_usable():
    table = await prepare_table("errors", "client int, n int, unique (client, n)")
    insert = f"insert into {table} values ($1, $2)"

    async def client(number):
        connection = await connect()
        for turn in range(10):
            async with connection.transaction():
                await connection.execute(insert, number, turn)
                try:
                    async with connection.transaction():
                        await connection.execute(insert, number, 1000)
                        await connection.execute(insert, number, turn)
                    raise AssertionError("no error")
                except asyncpg.UniqueViolationError:
                    pass
                equal(await connection.fetchval("select $1::int4", turn), turn)
            await expect(asyncpg.PostgresSyntaxError, connection.fetch("selct $1", 1))
            await expect(asyncpg.DivisionByZeroError, connection.fetch("select 1 / $1::int", 0))
            try:
                async with connection.transaction():
                    await expect(asyncpg.DivisionByZeroError,
                                 connection.fetch("select 1 / $1::int", 0))
                    await connection.fetch(f"select $1::int4, {turn}", 1)
                raise AssertionError("no error")
            except asyncpg.InFailedSQLTransactionError:
                pass
            equal(await connection.fetchval(f"select $1::int4, {turn}", 1), 1)
        count = await connection.fetchval(f"select count(*) from {table} where client = $1", number)
        equal(count, 10)
        await connection.close()

    await in_tasks(client)


@check
async def executemany_is_all_or_nothing():
    table = await prepare_table("many", "client int, n int, unique (client, n)")
    insert = f"insert into {table} values ($1, $2)"

    async def client(number):
        connection = await connect()
        await connection.executemany(insert, [(number, n) for n in range(2000)])
        await expect(asyncpg.UniqueViolationError, connection.executemany(
            insert, [(number, 2000 + n % 1500) for n in range(2000)]))
        rows = await connection.fetchmany(
            f"update {table} set n = -n where client = $1 and n = $2 returning n",
            [(number, n) for n in range(0, 300)])
        equal([row[0] for row in rows], [-n for n in range(0, 300)])
        count = await connection.fetchval(f"select count(*) from {table} where client = $1", number)
        equal(count, 2000)
        await connection.close()

    await in_tasks(client)


@check
async def cursors_live_in_transactions():
    async def client(number):
        connection = await connect()
        for _ in range(3):
            async with connection.transaction():
                text = "select $1::int8 + g from generate_series(1, 500) g"
                found = [row[0] async for row in connection.cursor(text, number, prefetch=40)]
                equal(found, [number + g for g in range(1, 501)])
                cursor = await connection.cursor(text, number)
                await cursor.forward(100)
                equal((await cursor.fetchrow())[0], number + 101)
                equal(len(await cursor.fetch(500)), 399)
            equal(await connection.fetchval("select $1::int8", number), number)
        await connection.close()

    await in_tasks(client)


@check
async def copies_go_in_and_out():
    table = await prepare_table("copies", "client int, n int unique, word text")

    async def client(number):
        connection = await connect()
        records = [(number, number * 10_000 + n, None if n % 7 == 0 else f"w\t{n}")
                   for n in range(1000)]
        await connection.copy_records_to_table(table, records=records)
        await expect(asyncpg.UniqueViolationError,
                     connection.copy_records_to_table(table, records=records))
        out = io.BytesIO()
        await connection.copy_from_query(
            f"select n from {table} where client = $1 order by n", number, output=out)
        equal([int(n) for n in out.getvalue().split()], [n for _, n, _ in records])

        async def broken():
            yield b"%d\t%d\tx\n" % (number, number * 10_000 + 5000)
            raise KeyError("given up")

        await expect(KeyError, connection.copy_to_table(table, source=broken()))
        count = await connection.fetchval(f"select count(*) from {table} where client = $1", number)
        equal(count, 1000)
        await connection.close()

    await in_tasks(client)


async def read_while_the_table_changes(table, **keys):
    """Every client reads between changes; returns how often it failed, by the kind of error."""
    connections = [await connect(**keys) for _ in range(CLIENTS)]
    query = f"select * from {table} where a = $1"
    errors = {}
    for change in range(4):
        await connections[0].execute(f"insert into {table} (a) values (1)")
        for connection in 4 * connections:
            try:
                equal(len(await connection.fetchrow(query, 1)), change + 1)
            except (asyncpg.PostgresError, asyncpg.InternalClientError) as error:
                errors.setdefault(type(error), []).append(error)
        await connections[0].execute(f"alter table {table} add column b{change} int")
    for connection in connections:
        await connection.close()
    return errors


@check
async def changed_tables_are_read_again_without_a_cache():
    table = await prepare_table("changed", "a int")
    errors = await read_while_the_table_changes(table, statement_cache_size=0)
    stale = errors.pop(asyncpg.FeatureNotSupportedError, [])
    stale += errors.pop(asyncpg.InvalidCachedStatementError, [])
    equal(errors, {})
    assert len(stale) <= 3 * SERVERS_MAX, f"{len(stale)} errors"


# PostgreSQL refuses to run a statement whose columns have changed since it was prepared, and the
# driver asks again.
@check
async def changed_tables_are_read_again():
    table = await prepare_table("changed_cached", "a int")
    errors = await read_while_the_table_changes(table)
    stale = errors.pop(asyncpg.InvalidCachedStatementError, [])
    equal(errors, {})
    # Once for each client.
    assert len(stale) <= 3 * CLIENTS, f"{len(stale)} errors"


@check
async def timeouts_cancel_their_own_query():
    async def client(number):
        connection = await connect()
        for turn in range(3):
            if number % 4 == 0:
                # In a transaction, where the query waits for no server.
                transaction = connection.transaction()
                await transaction.start()
                await expect(asyncio.TimeoutError,
                             connection.fetch("select pg_sleep($1)", 60, timeout=0.3))
                await transaction.rollback()
            for n in range(20):
                equal(await connection.fetchval("select $1::int8", n + number), n + number)
        await expect(asyncpg.QueryCanceledError, connection.execute(
            "begin; set local statement_timeout = 20; select pg_sleep(10)"))
        await connection.execute("rollback")
        equal(await connection.fetchval("select $1::int8", number), number)
        await connection.close()

    await in_tasks(client)


@check
async def values_of_all_types_come_back():
    kind = name("pair")
    connection = await connect()
    await connection.execute(f"drop type if exists {kind}; create type {kind} as (a int, b text)")
    await connection.close()
    values = [
        (True, "bool"), (-(2**63), "int8"), (1.5e300, "float8"),
        (decimal.Decimal("-12345678901234567890.000000001"), "numeric"),
        ("žluťoučký 🐎 'x' \\", "text"), (bytes(range(256)), "bytea"),
        (dt.date(2024, 2, 29), "date"), (dt.time(23, 59, 59, 999999), "time"),
        (dt.datetime(1999, 12, 31, 23, 59, 59, 123456), "timestamp"),
        (dt.datetime(2024, 2, 29, 12, tzinfo=dt.timezone.utc), "timestamptz"),
        (dt.timedelta(days=-3, microseconds=7), "interval"), (uuid.UUID(int=2**127 + 5), "uuid"),
        ([1, None, 3], "int4[]"), ([["a", "b,"], ['"', "{}"]], "text[]"),
        (asyncpg.Range(1, 10), "int4range"), ((1, "x"), kind), ([(1, "x"), (2, None)], kind + "[]"),
        (None, "int4"), (None, kind),
    ]

    async def client(number):
        # For types that it does not know the driver looks into the catalog, with JIT switched off.
        connection = await connect()
        await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps,
                                        decoder=json.loads)
        for value, type_name in 2 * (values[number:] + values[:number]):
            equal(await connection.fetchval(f"select $1::{type_name}", value), value)
        document = {"client": number, "list": [1, None, "ž"]}
        equal(await connection.fetchval("select $1::jsonb", document), document)
        await connection.close()

    await in_tasks(client)


@check
async def large_values_and_results_arrive():
    async def client(number):
        connection = await connect()
        data = random.Random(number).randbytes(1_500_000)
        assert await connection.fetchval("select $1::bytea", data) == data
        text = f"{number}ž" * 700_000
        assert await connection.fetchval("select $1::text", text) == text
        rows = await connection.fetch(
            "select g, repeat($1, 20) as word from generate_series(1, 20000) g", str(number))
        equal(sum(row["g"] for row in rows), 200010000)
        equal({row["word"] for row in rows}, {str(number) * 20})
        await connection.close()

    await in_tasks(client)


@check
async def settings_follow_the_client():
    async def client(number):
        zone = ["UTC", "Asia/Tokyo", "America/New_York"][number % 3]
        connection = await connect(server_settings={
            "application_name": f"client {number}", "search_path": f"public,app{number}",
            "statement_timeout": f"{number + 7}s"})
        await connection.execute(f"set time zone '{zone}'")
        for _ in range(10):
            row = await connection.fetchrow(
                "select current_setting('TimeZone'), current_setting('application_name'),"
                " current_setting('search_path'), current_setting('statement_timeout')")
            equal(tuple(row), (zone, f"client {number}", f"public,app{number}", f"{number + 7}s"))
        equal(connection.get_settings().TimeZone, zone)
        async with connection.transaction():
            await connection.execute("set local work_mem = '78MB'")
        assert await connection.fetchval("show work_mem") != "78MB"
        await connection.close()

    await in_tasks(client)


@check
async def a_pool_of_the_driver_stands_on_the_poolers():
    async with asyncpg.create_pool(min_size=4, max_size=8, timeout=20) as pool:
        async def client(number):
            for turn in range(15):
                async with pool.acquire() as connection:
                    equal(await connection.fetchval(f"select $1::int8 * {number}", turn),
                          turn * number)
                    async with connection.transaction():
                        equal(await connection.fetchval("select $1::text", str(number)),
                              str(number))

        await in_tasks(client, 3 * CLIENTS)


run_checks()
