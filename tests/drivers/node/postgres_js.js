// postgres.js: statements prepared without being asked, many queries in flight on a connection.
'use strict';

const { Readable } = require('node:stream');
const { pipeline } = require('node:stream/promises');
const postgres = require('postgres');
const {
  CLIENTS, SERVERS_MAX, assert, atOnce, check, fails, name, numbers, runChecks,
} = require('./checks');

function connect(options) {
  return postgres({
    max: 1, connect_timeout: 20, onnotice: () => {},
    ...options,
    connection: { application_name: 'postgres.js', ...options?.connection },
  });
}

/** Runs `body` with a connection of its own and closes that. */
async function connected(body, options) {
  const sql = connect(options);
  try {
    return await body(sql);
  } finally {
    await sql.end({ timeout: 20 });
  }
}

async function prepareTable(stem, columns) {
  const table = name(stem);
  await connected((sql) =>
    sql.unsafe(`drop table if exists ${table}; create table ${table} (${columns})`));
  return table;
}

check('every client gets its own values', async () => {
  await atOnce((number) => connected(async (sql) => {
    for (const turn of numbers(40)) {
      const value = number * 1000 + turn;
      const [sum] = await sql`select ${value}::int4 + 1 as n`;
      assert.equal(sum.n, value + 1);
      const own = await sql.unsafe(`select $1::int4 * ${number} as n`, [turn], { prepare: true });
      assert.equal(own[0].n, turn * number);
      if (turn % 4 === 0) {
        await sql.begin(async (sql) => {
          const [{ pid }] = await sql`select pg_backend_pid() as pid`;
          const [row] = await sql`select ${value}::int4 + 1 as n`;
          assert.equal(row.n, value + 1);
          const [again] = await sql`select pg_backend_pid() as pid`;
          assert.equal(again.pid, pid);
        });
      }
    }
  }, { prepare: number % 5 !== 4 }), 2 * CLIENTS);
});

check('queries in flight keep their order', async () => {
  await atOnce((number) => connected(async (sql) => {
    for (const turn of numbers(5)) {
      const rows = await Promise.all(numbers(60).map((n) => (n % 3
        ? sql`select ${n}::int4 + ${number}::int4 as n`
        : sql.unsafe(`select $1::int4 + $2::int4 as n, ${n % 7}`, [n, number], { prepare: true }))));
      assert.deepEqual(rows.map(([row]) => row.n), numbers(60).map((n) => n + number), `${turn}`);
    }
  }));
});

check('an error does not touch the queries in flight around it', async () => {
  await atOnce((number) => connected(async (sql) => {
    for (const turn of numbers(5)) {
      const results = await Promise.allSettled(numbers(30).map((n) => {
        if (n % 10 === 4) return sql`select 1 / ${0}::int4 as n`;
        if (n % 10 === 7) return sql.unsafe(`selct ${turn}`, [], { prepare: true });
        return sql`select ${n}::int4 + ${number}::int4 as n`;
      }));
      for (const [n, { value, reason }] of results.entries()) {
        if (n % 10 === 4) assert.equal(reason.code, '22012');
        else if (n % 10 === 7) assert.equal(reason.code, '42601');
        else assert.equal(value?.[0].n, n + number, `${reason?.stack}`);
      }
    }
  }));
});

check('transactions and savepoints roll back what is theirs', async () => {
  const table = await prepareTable('errors', 'client int, n int, unique (client, n)');
  await atOnce((number) => connected(async (sql) => {
    const insert = (sql, n) => sql`insert into ${sql(table)} values (${number}, ${n})`;
    for (const turn of numbers(10)) {
      await sql.begin('isolation level repeatable read', async (sql) => {
        await insert(sql, turn);
        await fails('23505', sql.savepoint(async (sql) => {
          await insert(sql, 1000);
          await insert(sql, turn);
        }));
        await sql.savepoint((sql) => insert(sql, 1000 + turn));
      });
      await fails('23505', sql.begin(async (sql) => {
        await insert(sql, 5000);
        await insert(sql, turn);
      }));
    }
    const [{ count }] = await sql`select count(*)::int4 from ${sql(table)} where client = ${number}`;
    assert.equal(count, 20);
  }));
});

check('a pool of the driver stands on the poolers', async () => {
  const table = await prepareTable('pool', 'client int, n int, word text');
  const sql = connect({ max: 8 });
  await atOnce(async (number) => {
    for (const turn of numbers(10)) {
      const [row] = await sql`select ${number}::int4 as number, ${`${turn}`}::text as turn`;
      assert.deepEqual({ ...row }, { number, turn: `${turn}` });
      const rows = numbers(5).map((n) => ({ client: number, n: 5 * turn + n, word: `w${n}` }));
      await sql`insert into ${sql(table)} ${sql(rows)}`;
      const reserved = await sql.reserve();
      const own = await reserved`select n from ${sql(table)} where client = ${number} order by n`;
      reserved.release();
      assert.deepEqual(own.map((row) => row.n), numbers(5 * turn + 5));
    }
  }, 3 * CLIENTS);
  await sql.end();
});

check('cursors give rows in parts', async () => {
  await atOnce((number) => connected(async (sql) => {
    const found = [];
    const query = sql`select g + ${number}::int4 as n from generate_series(1, 500) g`;
    for await (const rows of query.cursor(60)) found.push(...rows.map((row) => row.n));
    assert.deepEqual(found, numbers(500).map((n) => number + n + 1));
    let seen = 0;
    await sql`select g from generate_series(1, 500) g`.cursor(50, (rows) => {
      seen += rows.length;
      return seen >= 150 ? sql.CLOSE : undefined;
    });
    assert.equal(seen, 150);
    await sql`select g from generate_series(1, 2000) g`.forEach((row) => { seen += row.g; });
    assert.equal(seen, 2001150);
    const [{ n }] = await sql`select ${number}::int4 as n`;
    assert.equal(n, number);
  }));
});

check('copies go in and out', async () => {
  const table = await prepareTable('copies', 'client int, n int unique');
  await atOnce((number) => connected(async (sql) => {
    const lines = numbers(2000).map((n) => `${number}\t${10_000 * number + n}\n`);
    const into = await sql`copy ${sql(table)} from stdin`.writable();
    await pipeline(Readable.from(lines), into);
    const out = await sql.unsafe(
      `copy (select * from ${table} where client = ${number} order by n) to stdout`).readable();
    const chunks = [];
    for await (const chunk of out) chunks.push(chunk);
    assert.equal(Buffer.concat(chunks).toString(), lines.join(''));
    const [{ count }] = await sql`
      select count(*)::int4 from ${sql(table)} where client = ${number}`;
    assert.equal(count, 2000);
  }));
});

/** Every client reads between changes of a table; returns what failed and was no `0A000`. */
async function readWhileTheTableChanges(table, options) {
  const clients = numbers(CLIENTS).map(() => connect(options));
  const wrong = [];
  let errors = 0;
  for (const change of numbers(4)) {
    await clients[0].unsafe(`insert into ${table} (a) values (1)`);
    for (const sql of [...clients, ...clients, ...clients]) {
      try {
        const [row] = await sql`select * from ${sql(table)} where a = ${1}`;
        if (Object.keys(row).length !== change + 1) wrong.push(row);
      } catch (error) {
        if (error.code === '0A000') errors += 1;
        else wrong.push(error);
      }
    }
    await clients[0].unsafe(`alter table ${table} add column b${change} int4`);
  }
  // Without names once for each server that has the statement; the driver tries the others again.
  assert.ok(errors <= 3 * SERVERS_MAX, `${errors} errors`);
  await Promise.all(clients.map((sql) => sql.end()));
  return wrong;
}

check('changed tables are read again by unnamed statements', async () => {
  const table = await prepareTable('changed', 'a int4');
  assert.deepEqual(await readWhileTheTableChanges(table, { prepare: false }), []);
});

// PostgreSQL refuses to run a statement whose columns have changed since it was prepared, and the
// driver prepares it anew.
check('changed tables are read again', async () => {
  const table = await prepareTable('changed_named', 'a int4');
  assert.deepEqual(await readWhileTheTableChanges(table), []);
});

check('cancel requests and timeouts end their own query', async () => {
  await atOnce((number) => connected(async (sql) => {
    if (number % 4 === 0) {
      // The driver asks once: in a transaction, where the query waits for no server.
      await fails('57014', sql.begin(async (sql) => {
        await sql`select 1`;
        const query = sql`select pg_sleep(${60})`;
        setTimeout(() => query.cancel(), 300);
        await query;
      }));
    }
    for (const n of numbers(30)) {
      const [row] = await sql`select ${n + number}::int4 as n`;
      assert.equal(row.n, n + number);
    }
  }));
  await atOnce((number) => connected(async (sql) => {
    if (number % 2) await fails('57014', sql`select pg_sleep(${10})`);
    else await sql`select pg_sleep(${0.12})`;
    await fails('57014', sql.begin(async (sql) => {
      await sql`set local statement_timeout = 20`;
      await sql`select pg_sleep(${10})`;
    }));
  }, { connection: number % 2 ? { statement_timeout: 100 } : {} }));
});

check('values of all types come back', async () => {
  const values = [
    [true, 'bool'], [2 ** 31 - 1, 'int4'], ['-9223372036854775808', 'int8'], [1.5e300, 'float8'],
    ['-12345678901234567890.000000001', 'numeric'], ["žluťoučký 🐎 'x' \\", 'text'], ['', 'text'],
    [Buffer.from(numbers(256)), 'bytea'], [new Date('2024-02-29T12:00:00.123Z'), 'timestamptz'],
    [{ deep: [1, null, 'ž'] }, 'jsonb'], [{ a: 1 }, 'json'], [[1, 2, 3], 'int4[]'],
    [['a', 'b,', '"', '{}'], 'text[]'], [null, 'int4'], [null, 'text'],
    ['11111111-2222-3333-4444-555555555555', 'uuid'],
  ];
  await atOnce((number) => connected(async (sql) => {
    for (const [value, type] of [...values.slice(number), ...values.slice(0, number)]) {
      for (const _ of numbers(2)) {
        const [row] = await sql`select ${value}::${sql.unsafe(type)} as value`;
        assert.deepEqual(row.value, value, type);
      }
    }
  }));
});

check('large values and results arrive', async () => {
  await atOnce((number) => connected(async (sql) => {
    const text = `${number}ž`.repeat(400_000);
    const data = Buffer.alloc(1_000_000, `${number}ž`);
    const [row] = await sql`select ${text}::text as text, ${data}::bytea as data`;
    assert.ok(row.text === text && data.equals(row.data));
    const rows = await sql`
      select g, repeat(${`${number}`}, 20) as word from generate_series(1, 10000) g`;
    assert.equal(rows.reduce((sum, row) => sum + row.g, 0), 50005000);
    assert.ok(rows.every((row) => row.word === `${number}`.repeat(20)));
  }));
});

check('settings follow the client', async () => {
  await atOnce((number) => connected(async (sql) => {
    const zone = ['UTC', 'Asia/Tokyo', 'America/New_York'][number % 3];
    await sql.unsafe(`set time zone '${zone}'`);
    for (const _ of numbers(10)) {
      const [shown] = await sql`select current_setting('TimeZone') as zone,
        current_setting('application_name') as name, current_setting('search_path') as path`;
      const path = `public,app${number}`;
      assert.deepEqual({ ...shown }, { zone, name: `client ${number}`, path });
    }
  }, { connection: { application_name: `client ${number}`, search_path: `public,app${number}` } }));
});

runChecks();
