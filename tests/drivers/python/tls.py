"""Drivers of Python over TLS: a short login and a query in every mode.

Owns: what each mode of each driver must do against a pooler that wants TLS.
Does not own: where the pooler is (PGHOST and the like); DOORMAN_CA and DOORMAN_OTHER_CA are the authority
of its certificate and another one.

Source: libpq-ssl.html; the manuals of psycopg, psycopg2 and asyncpg.
"""

import asyncio
import os
import ssl

import asyncpg
import psycopg
import psycopg2

CA = os.environ["DOORMAN_CA"]
OTHER = os.environ["DOORMAN_OTHER_CA"]
# Mode, authority, other settings, whether it must work.
LIBPQ = [
    ("disable", None, {}, False),
    ("allow", None, {}, True),
    ("prefer", None, {}, True),
    ("require", None, {}, True),
    ("require", None, {"channel_binding": "require"}, True),
    ("require", OTHER, {}, False),
    ("verify-ca", CA, {}, True),
    ("verify-ca", OTHER, {}, False),
    ("verify-full", CA, {}, True),
    ("verify-full", CA, {"channel_binding": "require"}, True),
    ("verify-full", OTHER, {}, False),
]


def libpq(connect, error, name):
    for mode, authority, more, must in LIBPQ:
        settings = dict(more, sslmode=mode, gssencmode="disable", connect_timeout=20)
        if authority:
            settings["sslrootcert"] = authority
        try:
            connection = connect("", **settings)
        except error as refusal:
            assert not must, (name, mode, authority, refusal)
        else:
            assert must, (name, mode, authority, "was let in")
            cursor = connection.cursor()
            cursor.execute("select 42")
            assert cursor.fetchone() == (42,)
            connection.close()
        print(name, mode, authority is not None, more, "as it must be")


def context(authority, check_hostname=True):
    made = ssl.create_default_context(cafile=authority)
    made.check_hostname = check_hostname
    return made


async def with_asyncpg():
    for what, must in [
        ("disable", False),
        ("prefer", True),
        ("require", True),
        (context(CA), True),
        (context(CA, check_hostname=False), True),
        (context(OTHER), False),
    ]:
        try:
            connection = await asyncpg.connect(ssl=what, timeout=20)
        except (asyncpg.PostgresError, ssl.SSLError, OSError) as refusal:
            assert not must, (what, refusal)
        else:
            assert must, (what, "was let in")
            assert await connection.fetchval("select $1::int", 42) == 42
            await connection.close()
        print("asyncpg", what, "as it must be")


libpq(psycopg.connect, psycopg.OperationalError, "psycopg")
libpq(psycopg2.connect, psycopg2.OperationalError, "psycopg2")
asyncio.run(with_asyncpg())
