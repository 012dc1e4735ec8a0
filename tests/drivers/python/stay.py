"""Sessions that stay open as long as the test wants, with one driver: `stay.py psycopg|psycopg2|asyncpg`.

Owns: what each session expects in each of its turns: its own setting, its own values from prepared
statements, transactions on one server, a cancel request that hits its own query.
Does not own: what happens to the pooler meanwhile; where it is (PGHOST and the like).
Invariants: a session is opened once; whatever goes wrong in one ends the program with an error.

Says `ready` when all are open. For each line that it reads it says how many turns there were, when every
session has begun and ended one after that. At the end of its input every session does a last turn.
"""

import asyncio
import os
import sys
import threading
import time

SESSIONS = 3
# A turn of so many asks for a query to be cancelled.
CANCELS = 15
# What a session thinks between two turns.
PAUSE = 0.002
SLEEP = "select pg_sleep(600) as "
ACTIVE = "select count(*) from pg_stat_activity where state = 'active' and query like %s"


class Turns:
    """What the sessions have done, and whether they go on."""

    def __init__(self):
        self.counts = [0] * SESSIONS
        self.is_over = False
        self.changed = threading.Condition()

    def done(self, number):
        with self.changed:
            self.counts[number] += 1
            self.changed.notify_all()

    def listen(self):
        print("ready", flush=True)
        for _ in sys.stdin:
            with self.changed:
                # The turn that is under way had begun before.
                wanted = [count + 2 for count in self.counts]
                self.changed.wait_for(lambda: all(map(int.__ge__, self.counts, wanted)))
                print(sum(self.counts), flush=True)
        self.is_over = True


turns = Turns()
# One cancelled query at a time: others still find servers.
cancelling = threading.Lock()


def zone(number):
    return f"Etc/GMT+{number + 1}"


def mark(driver, number):
    return f"{SLEEP}{driver}_{os.getpid()}_{number}"


def fails():
    """Ends the program, also when other threads wait."""
    import traceback
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)


class Libpq:
    """psycopg and psycopg2: as far as they are the same."""

    def __init__(self, driver):
        self.name = driver.__name__
        self.canceled = driver.errors.QueryCanceled
        keys = {"prepare_threshold": 1} if self.name == "psycopg" else {}
        self.open = lambda: driver.connect("connect_timeout=20", **keys)

    def one(self, connection, text, parameters=None):
        with connection.cursor() as cursor:
            cursor.execute(text, parameters)
            return cursor.fetchone()

    def connect(self):
        connection = self.open()
        connection.autocommit = True
        return connection

    def cancel(self, connection, watcher, number):
        text = mark(self.name, number)

        def order():
            while self.one(watcher, ACTIVE, (text,)) != (1,):
                time.sleep(PAUSE)
            connection.cancel()

        with cancelling:
            thread = threading.Thread(target=guarded, args=(order,))
            thread.start()
            try:
                self.one(connection, text)
            except self.canceled:
                thread.join()
            else:
                raise AssertionError("the query was not cancelled")

    def statements(self, connection, number, turn):
        """Statements that the driver prepares, or those of SQL in a transaction."""
        if self.name == "psycopg":
            row = self.one(connection, f"select %s::int8 + {number}", (turn,))
            assert row == (turn + number,), row
            row = self.one(connection, f"select %s::text, {turn % 4} as kind", (f"{number} {turn}",))
            assert row == (f"{number} {turn}", turn % 4), row
        connection.autocommit = False
        with connection.cursor() as cursor:
            cursor.execute("select pg_backend_pid()")
            pid = cursor.fetchone()
            if self.name == "psycopg2":
                cursor.execute(f"prepare mine (int) as select $1 * {number}")
                cursor.execute("execute mine (%s)", (turn,))
                assert cursor.fetchone() == (turn * number,)
                cursor.execute("deallocate mine")
            cursor.execute("select pg_backend_pid()")
            assert cursor.fetchone() == pid
        connection.commit()
        connection.autocommit = True

    def session(self, connection, watcher, number):
        turn, is_last = 0, False
        while not is_last:
            is_last = turns.is_over
            row = self.one(connection, "show timezone")
            assert row == (zone(number),), row
            self.statements(connection, number, turn)
            if is_last or turn % CANCELS == 5 * number:
                self.cancel(connection, watcher, number)
            turns.done(number)
            turn += 1
            time.sleep(PAUSE)

    def run(self):
        watcher = self.connect()
        sessions = [self.connect() for _ in range(SESSIONS)]
        threads = []
        for number, connection in enumerate(sessions):
            with connection.cursor() as cursor:
                cursor.execute(f"set timezone to '{zone(number)}'")
            arguments = (self.session, connection, watcher, number)
            threads.append(threading.Thread(target=guarded, args=arguments))
        for thread in threads:
            thread.start()
        turns.listen()
        for thread in threads:
            thread.join()


def guarded(body, *arguments):
    try:
        body(*arguments)
    except BaseException:
        fails()


class Asyncpg:
    def __init__(self):
        import asyncpg
        mode = os.environ["PGSSLMODE"]
        self.connect = lambda: asyncpg.connect(ssl=mode, timeout=20)

    async def cancel(self, connection, watcher, number):
        text = mark("asyncpg", number)
        async with self.cancelling:
            query = asyncio.create_task(connection.execute(text))
            while await watcher.fetchval(ACTIVE.replace("%s", "$1"), text) != 1:
                assert not query.done(), query
                await asyncio.sleep(PAUSE)
            # The driver asks the server; what comes next waits until that has been done.
            query.cancel()
            try:
                await query
            except asyncio.CancelledError:
                pass
            assert await connection.fetchval("select $1::int", number) == number

    async def session(self, connection, watcher, number):
        own = await connection.prepare(f"select $1::int8 + {number}")
        turn, is_last = 0, False
        while not is_last:
            is_last = turns.is_over
            assert await connection.fetchval("show timezone") == zone(number)
            assert await own.fetchval(turn) == turn + number
            row = await connection.fetchrow(f"select $1::text, {turn % 4} as kind", f"{number} {turn}")
            assert tuple(row) == (f"{number} {turn}", turn % 4), row
            async with connection.transaction():
                pid = await connection.fetchval("select pg_backend_pid()")
                rows = [row[0] async for row in connection.cursor("select generate_series(1, $1)", 60)]
                assert rows == list(range(1, 61)), rows
                assert await connection.fetchval("select pg_backend_pid()") == pid
            if is_last or turn % CANCELS == 5 * number:
                await self.cancel(connection, watcher, number)
            turns.done(number)
            turn += 1
            await asyncio.sleep(PAUSE)

    async def run(self):
        self.cancelling = asyncio.Lock()
        watcher = await self.connect()
        sessions = [await self.connect() for _ in range(SESSIONS)]
        for number, connection in enumerate(sessions):
            await connection.execute(f"set timezone to '{zone(number)}'")
        listening = threading.Thread(target=turns.listen, daemon=True)
        listening.start()
        await asyncio.gather(*(
            self.session(connection, watcher, number) for number, connection in enumerate(sessions)
        ))


def run(name):
    if name == "asyncpg":
        asyncio.run(Asyncpg().run())
    elif name == "psycopg":
        import psycopg
        Libpq(psycopg).run()
    else:
        import psycopg2
        import psycopg2.errors
        Libpq(psycopg2).run()


guarded(run, sys.argv[1])
