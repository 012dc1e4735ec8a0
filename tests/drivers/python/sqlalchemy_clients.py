"""SQLAlchemy: the same model with psycopg in threads and with asyncpg in tasks."""

import asyncio
import datetime as dt
import decimal

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, JSONB, insert
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool

from checks import CLIENTS, check, equal, in_tasks, in_threads, name, run_checks


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = name("notes")
    id: Mapped[int] = mapped_column(primary_key=True)
    client: Mapped[int]
    number: Mapped[int]
    word: Mapped[str | None]
    document: Mapped[dict] = mapped_column(JSONB, default=dict)
    numbers: Mapped[list[int]] = mapped_column(ARRAY(sa.Integer), default=list)
    data: Mapped[bytes] = mapped_column(BYTEA, default=b"")
    price: Mapped[decimal.Decimal | None] = mapped_column(sa.Numeric(30, 10))
    at: Mapped[dt.datetime | None] = mapped_column(sa.DateTime(timezone=True))
    __table_args__ = (sa.UniqueConstraint("client", "number"),)


URL = "postgresql+{driver}://"
SIZES = {"pool_size": CLIENTS, "max_overflow": 0}
AT = dt.datetime(2024, 2, 29, 12, 0, 0, 7, tzinfo=dt.timezone.utc)


def sync_engine(**keys):
    return sa.create_engine(URL.format(driver="psycopg"), **({**SIZES, **keys}))


def async_engine(**keys):
    # asyncpg finds the pooler by PGHOST and so on, as libpq does.
    return create_async_engine(URL.format(driver="asyncpg"), **({**SIZES, **keys}))


@check
def tables_are_made_and_reflected():
    engine = sync_engine()
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    table = sa.Table(Note.__tablename__, sa.MetaData(), autoload_with=engine)
    equal({column.name for column in table.columns},
          {"id", "client", "number", "word", "document", "numbers", "data", "price", "at"})
    engine.dispose()


def note(number, turn):
    return Note(client=number, number=turn, word=f"{number}-{turn}", numbers=[number, turn],
                document={"turn": turn, "deep": [None, "ž"]}, data=bytes([number] * turn),
                price=decimal.Decimal(turn) / 8, at=AT)


def assert_is_note(found, number, turn):
    wanted = note(number, turn)
    for field in ("client", "number", "word", "document", "numbers", "data", "price", "at"):
        equal(getattr(found, field), getattr(wanted, field))


@check
def sessions_of_threads_see_their_own():
    engine = sync_engine(connect_args={"prepare_threshold": 1})

    def client(number):
        for turn in range(5):
            with Session(engine) as session, session.begin():
                session.add(note(number, turn))
                session.flush()
                try:
                    with session.begin_nested():
                        session.add(note(number, turn))
                        session.flush()
                    raise AssertionError("no error")
                except sa.exc.IntegrityError:
                    pass
            with Session(engine) as session:
                query = sa.select(Note).where(Note.client == number).order_by(Note.number)
                found = session.scalars(query).all()
                equal(len(found), turn + 1)
                assert_is_note(found[-1], number, turn)
                found[-1].word = "changed and not committed"
                session.flush()
                session.rollback()
        with engine.connect() as connection:
            try:
                connection.execute(sa.text("selct 1"))
                raise AssertionError("no error")
            except sa.exc.ProgrammingError:
                connection.rollback()
            equal(connection.scalar(sa.select(sa.literal(number))), number)

    in_threads(client)
    engine.dispose()


@check
def many_rows_go_in_and_come_out_in_parts():
    engine = sync_engine()

    def client(number):
        rows = [{"client": number, "number": 1000 + n, "word": "w" * (n % 60)} for n in range(800)]
        with Session(engine) as session, session.begin():
            keys = session.scalars(sa.insert(Note).returning(Note.number, sort_by_parameter_order=True),
                                   rows).all()
            equal(list(keys), [row["number"] for row in rows])
            upsert = insert(Note).values(rows[:10])
            session.execute(upsert.on_conflict_do_update(
                index_elements=["client", "number"], set_={"word": "twice"}))
        with engine.connect() as connection:
            query = sa.select(Note.number, Note.word).where(
                Note.client == number, Note.number >= 1000).order_by(Note.number)
            # A cursor on the server.
            parts = connection.execution_options(yield_per=200).execute(query).partitions()
            found = [tuple(row) for part in parts for row in part]
        expected = [(1000 + n, "twice" if n < 10 else "w" * (n % 60)) for n in range(800)]
        equal(found, expected)

    in_threads(client)
    engine.dispose()


@check
def options_of_engines_hold():
    engine = sa.create_engine(
        URL.format(driver="psycopg"), poolclass=NullPool, isolation_level="REPEATABLE READ",
        connect_args={"options": "-c search_path=public,elsewhere", "application_name": "alchemy"})

    def client(number):
        for _ in range(4):
            with engine.connect() as connection:
                shown = connection.execute(sa.text(
                    "select current_setting('search_path'), current_setting('application_name'),"
                    " current_setting('transaction_isolation')")).one()
                equal(tuple(shown), ("public,elsewhere", "alchemy", "repeatable read"))
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                equal(connection.scalar(sa.text("select :n + 1"), {"n": number}), number + 1)

    in_threads(client)


@check
async def sessions_of_tasks_see_their_own():
    engine = async_engine()

    async def client(number):
        mine = 100 + number
        for turn in range(5):
            async with AsyncSession(engine) as session, session.begin():
                session.add(note(mine, turn))
                await session.flush()
                try:
                    async with session.begin_nested():
                        session.add(note(mine, turn))
                        await session.flush()
                    raise AssertionError("no error")
                except sa.exc.IntegrityError:
                    pass
            async with AsyncSession(engine) as session:
                query = sa.select(Note).where(Note.client == mine).order_by(Note.number)
                found = (await session.scalars(query)).all()
                equal(len(found), turn + 1)
                assert_is_note(found[-1], mine, turn)
        async with engine.connect() as connection:
            try:
                await connection.execute(sa.text("selct 1"))
                raise AssertionError("no error")
            except sa.exc.ProgrammingError:
                await connection.rollback()
            equal(await connection.scalar(sa.text("select cast(:n as int)"), {"n": mine}), mine)

    # More tasks than connections of the engine, more of those than servers.
    await in_tasks(client, 2 * CLIENTS)
    await engine.dispose()


@check
async def results_are_streamed_to_tasks():
    engine = async_engine()

    async def client(number):
        async with engine.begin() as connection:
            rows = [{"client": 200 + number, "number": n} for n in range(600)]
            await connection.execute(sa.insert(Note), rows)
        async with engine.connect() as connection:
            query = sa.select(Note.number).where(Note.client == 200 + number).order_by(Note.number)
            result = await connection.stream(query, execution_options={"yield_per": 100})
            equal([row.number async for row in result], list(range(600)))

    await in_tasks(client)
    await engine.dispose()


@check
async def a_task_that_is_cancelled_leaves_a_usable_pool():
    engine = async_engine()

    async def client(number):
        for turn in range(2):
            if number % 4 == 0:
                try:
                    async with engine.connect() as connection:
                        # Begins the transaction, in which the query waits for no server.
                        await connection.execute(sa.text("select 1"))
                        async with asyncio.timeout(0.3):
                            await connection.execute(sa.text("select pg_sleep(60)"))
                    raise AssertionError("not cancelled")
                except TimeoutError:
                    pass
            async with engine.connect() as connection:
                equal(await connection.scalar(sa.text("select cast(:n as int)"), {"n": number}),
                      number)

    await in_tasks(client)
    await engine.dispose()


run_checks()
