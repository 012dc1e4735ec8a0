"""psycopg 3 with asyncio: many connections in one thread, and a pool of them."""

import asyncio
import json
import logging
import random

import psycopg
import psycopg_pool
from psycopg.types.json import set_json_loads

from checks import CLIENTS, SERVERS_MAX, check, equal, in_tasks, name, run_checks

# It tells of every pipeline that ends with an error, which is what some checks want.
logging.getLogger("psycopg").setLevel(logging.ERROR)


async def connect(**keys):
    return await psycopg.AsyncConnection.connect("connect_timeout=20", autocommit=True, **keys)


async def one(connection, text, parameters=(), **keys):
    cursor = await connection.execute(text, parameters, **keys)
    return await cursor.fetchone()


async def expect(error, connection, text, parameters=()):
    try:
        await connection.execute(text, parameters)
    except error:
        return
    raise AssertionError(f"{text}: no {error.__name__}")


async def prepare_table(stem, columns):
    table = name(stem)
    async with await connect() as connection:
        await connection.execute(f"drop table if exists {table}")
        await connection.execute(f"create table {table} ({columns})")
    return table


@check
async def every_client_gets_its_own_values():
    async def client(number):
        dice = random.Random(number)
        async with await connect(prepare_threshold=[0, 5, None][number % 3]) as connection:
            connection.prepared_max = 4
            for turn in range(50):
                value = dice.randrange(10**9)
                equal(await one(connection, f"select %s::int8 + {number}", (value,)),
                      (value + number,))
                equal(await one(connection, f"select %s::text, {turn % 7} as turn", (str(value),)),
                      (str(value), turn % 7))
                async with connection.transaction():
                    equal(await one(connection, "select %s::int8 * 3", (value,), binary=True),
                          (3 * value,))
                    await asyncio.sleep(0)
                    equal(await one(connection, "select %s::int4[]", ([number, turn],)),
                          ([number, turn],))

    await in_tasks(client, 2 * CLIENTS)


@check
async def pipelines_of_many_clients_do_not_mix():
    async def client(number):
        async with await connect(prepare_threshold=number % 2) as connection:
            for turn in range(10):
                async with connection.pipeline() as pipeline:
                    cursors = [await connection.execute(f"select %s::int8 + {n % 4}", (number,))
                               for n in range(30)]
                    await pipeline.sync()
                    late = await connection.execute("select %s::text", (f"{number} {turn}",))
                equal([(await c.fetchone())[0] for c in cursors],
                      [number + n % 4 for n in range(30)])
                equal(await late.fetchone(), (f"{number} {turn}",))
                try:
                    async with connection.pipeline():
                        await connection.execute("select %s::int8", (turn,))
                        await connection.execute("select 1 / %s::int8", (0,))
                        await connection.execute(f"select %s::int8, {turn} as skipped", (turn,))
                    raise AssertionError("no error")
                except psycopg.errors.DivisionByZero:
                    pass
                equal(await one(connection, f"select %s::int8, {turn} as skipped", (turn,)),
                      (turn, turn))

    await in_tasks(client)


@check
async def errors_and_savepoints_leave_the_client_usable():
    table = await prepare_table("errors", "client int, n int, unique (client, n)")

    async def client(number):
        insert = f"insert into {table} values (%s, %s)"
        async with await connect(prepare_threshold=0) as connection:
            for turn in range(10):
                async with connection.transaction():
                    await connection.execute(insert, (number, turn))
                    try:
                        async with connection.transaction():
                            await connection.execute(insert, (number, 1000))
                            await connection.execute(insert, (number, turn))
                        raise AssertionError("no error")
                    except psycopg.errors.UniqueViolation:
                        pass
                await expect(psycopg.errors.SyntaxError, connection, "selct %s", (1,))
                await expect(psycopg.errors.InvalidTextRepresentation, connection,
                             "select %t::int", ("no number",))
            count = await one(connection, f"select count(*) from {table} where client = %s",
                              (number,))
            equal(count, (10,))

    await in_tasks(client)


@check
async def copies_and_cursors_are_the_clients_own():
    table = await prepare_table("copies", "client int, n int, word text")

    async def client(number):
        async with await connect(prepare_threshold=0) as connection:
            cursor = connection.cursor()
            async with cursor.copy(f"copy {table} from stdin") as copy:
                for n in range(300):
                    await copy.write_row((number, n, f"{number} " * (n % 50)))
            text = f"copy (select word from {table} where client = %s order by n) to stdout"
            async with cursor.copy(text, (number,)) as copy:
                found = [word async for word, in copy.rows()]
            equal(found, [f"{number} " * (n % 50) for n in range(300)])
            async with connection.transaction():
                async with connection.cursor("same_name") as cursor:
                    cursor.itersize = 100
                    await cursor.execute(f"select n from {table} where client = %s order by n",
                                         (number,))
                    equal([n async for n, in cursor], list(range(300)))
            # The rest of a result that nobody wants is cancelled.
            cursor = connection.cursor()
            async for n, in cursor.stream("select g from generate_series(1, 100000) g"):
                if n == 10:
                    break
            await cursor.close()
            equal(await one(connection, "select %s::int8", (number,)), (number,))

    await in_tasks(client)


@check
async def a_task_that_times_out_cancels_its_query():
    async def client(number):
        async with await connect(prepare_threshold=0) as connection:
            for turn in range(2):
                if number % 4 == 0:
                    try:
                        # In a transaction, where the query waits for no server.
                        async with connection.transaction():
                            await connection.execute("select 1")
                            async with asyncio.timeout(0.3):
                                await connection.execute("select pg_sleep(%s)", (60,))
                        raise AssertionError("not cancelled")
                    except TimeoutError:
                        pass
                for n in range(20):
                    equal(await one(connection, "select %s::int8", (n + number,)), (n + number,))

    await in_tasks(client)


@check
async def changed_tables_are_read_again():
    table = await prepare_table("changed", "a int")
    connections = [await connect(prepare_threshold=None) for _ in range(CLIENTS)]
    query = f"select * from {table} where a::text = %s::text"
    errors = 0
    for kind in ("int8", "text", "int4"):
        await connections[0].execute(f"insert into {table} values (1)")
        for connection in 4 * connections:
            try:
                found, = await one(connection, query, (1,))
                equal(str(found), "1")
            except psycopg.errors.FeatureNotSupported:
                # PostgreSQL itself parses unnamed statements anew; see docs/drivers.md.
                errors += 1
        await connections[0].execute(
            f"alter table {table} alter column a type {kind} using a::{kind}")
    assert errors <= 2 * SERVERS_MAX, f"{errors} errors"
    for connection in connections:
        await connection.close()


@check
async def types_and_large_values_come_back():
    async def client(number):
        async with await connect(prepare_threshold=0) as connection:
            set_json_loads(json.loads, connection)
            document = json.dumps({"n": number, "words": ["ž" * 50] * 5000})
            text, = await one(connection, "select %s::jsonb", (document,))
            equal(text, json.loads(document))
            data = random.Random(number).randbytes(1_000_000)
            found, none = await one(connection, "select %s::bytea, %s::bytea", (data, None),
                                    binary=number % 2 == 0)
            assert found == data and none is None
            cursor = await connection.execute(
                "select g, repeat('x', g % 100) from generate_series(1, 10000) g")
            rows = await cursor.fetchall()
            equal(len(rows), 10000)
            assert all(len(word) == n % 100 for n, word in rows)

    await in_tasks(client)


@check
async def a_pool_of_the_driver_stands_on_the_poolers():
    async with psycopg_pool.AsyncConnectionPool(
        "connect_timeout=20", min_size=4, max_size=8, open=False, timeout=60,
        check=psycopg_pool.AsyncConnectionPool.check_connection,
        kwargs={"prepare_threshold": 0, "application_name": "pool of pools"},
    ) as pool:
        async def client(number):
            for turn in range(15):
                async with pool.connection() as connection:
                    shown = await one(connection, "select %s::int8, %s::int8,"
                                      " current_setting('application_name')", (number, turn))
                    equal(shown, (number, turn, "pool of pools"))
                    await connection.execute("set local work_mem = '77MB'")
                async with pool.connection() as connection:
                    shown, = await one(connection, "show work_mem")
                    assert shown != "77MB"

        await in_tasks(client, 3 * CLIENTS)


run_checks()
