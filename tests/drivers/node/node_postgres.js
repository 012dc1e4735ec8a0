// node-postgres (pg): named statements, its pool, pg-cursor and pg-query-stream.
'use strict';

const pg = require('pg');
const Cursor = require('pg-cursor');
const QueryStream = require('pg-query-stream');
const {
  CLIENTS, SERVERS_MAX, assert, atOnce, check, fails, name, numbers, runChecks,
} = require('./checks');

async function connect(options) {
  const client = new pg.Client({ connectionTimeoutMillis: 20000, ...options });
  await client.connect();
  return client;
}

/** Runs `body` with a connection of its own and closes that. */
async function connected(body, options) {
  const client = await connect(options);
  try {
    return await body(client);
  } finally {
    await client.end();
  }
}

async function one(client, text, values, name) {
  const { rows } = await client.query({ text, values, name, rowMode: 'array' });
  return rows[0];
}

async function prepareTable(stem, columns) {
  const table = name(stem);
  await connected((client) =>
    client.query(`drop table if exists ${table}; create table ${table} (${columns})`));
  return table;
}

check('every client gets its own values', async () => {
  await atOnce((number) => connected(async (client) => {
    for (const turn of numbers(40)) {
      const value = number * 1000 + turn;
      // The same name stands for another text in every client.
      assert.deepEqual(await one(client, `select $1::int4 + ${number}`, [value], 'mine'),
        [value + number]);
      assert.deepEqual(await one(client, 'select $1::text, $2::int4', [`${value}`, turn], 'common'),
        [`${value}`, turn]);
      assert.deepEqual(await one(client, 'select $1::int4 * 2', [value]), [2 * value]);
      if (turn % 4 === 0) {
        await client.query('begin');
        const [pid] = await one(client, 'select pg_backend_pid()');
        assert.deepEqual(await one(client, `select $1::int4 + ${number}`, [turn], 'mine'),
          [turn + number]);
        assert.deepEqual(await one(client, 'select pg_backend_pid()', [], 'pid'), [pid]);
        await client.query(turn % 8 === 0 ? 'commit' : 'rollback');
      }
    }
  }), 2 * CLIENTS);
});

check('queries that wait in the driver keep their order', async () => {
  await atOnce((number) => connected(async (client) => {
    for (const turn of numbers(5)) {
      const results = await Promise.all(numbers(40).map((n) =>
        one(client, `select $1::int4 * ${n % 5}`, [number + n], `times ${n % 5}`)));
      assert.deepEqual(results, numbers(40).map((n) => [(number + n) * (n % 5)]), `${turn}`);
    }
  }));
});

check('errors and savepoints leave the client usable', async () => {
  const table = await prepareTable('errors', 'client int, n int, unique (client, n)');
  const insert = `insert into ${table} values ($1, $2)`;
  await atOnce((number) => connected(async (client) => {
    for (const turn of numbers(10)) {
      await client.query('begin');
      await one(client, insert, [number, turn], 'insert');
      await client.query('savepoint s');
      await fails('23505', one(client, insert, [number, turn], 'insert'));
      await fails('25P02', one(client, insert, [number, turn], 'insert'));
      await client.query('rollback to savepoint s');
      assert.deepEqual(await one(client, 'select $1::int4', [turn], `late ${turn}`), [turn]);
      await client.query('commit');
      await fails('42601', one(client, 'selct $1', [1], `bad ${turn}`));
      await fails('22012', one(client, 'select 1 / $1::int4', [0], 'divide'));
      await fails('22P02', one(client, 'select $1::int4', ['no number'], 'number'));
      await fails('42P01', one(client, `select * from nowhere_${turn}`, [], `nowhere ${turn}`));
      assert.deepEqual(await one(client, 'select $1::int4', [turn], 'number'), [turn]);
    }
    const [count] = await one(client, `select count(*) from ${table} where client = $1`, [number]);
    assert.equal(count, '10');
  }));
});

check('a pool of the driver stands on the poolers', async () => {
  const table = await prepareTable('pool', 'client int, n int');
  const pool = new pg.Pool({ max: 8, connectionTimeoutMillis: 20000 });
  await atOnce(async (number) => {
    for (const turn of numbers(10)) {
      const { rows } = await pool.query({ name: 'sum', text: 'select $1::int4 + $2::int4 as sum',
        values: [number, turn] });
      assert.equal(rows[0].sum, number + turn);
      const client = await pool.connect();
      try {
        await client.query('begin');
        await client.query({ name: 'in', text: `insert into ${table} values ($1, $2)`,
          values: [number, turn] });
        const own = await client.query({ name: 'own',
          text: `select count(*)::int4 as count from ${table} where client = $1`,
          values: [number] });
        assert.equal(own.rows[0].count, turn + 1);
        await client.query('commit');
      } finally {
        client.release();
      }
    }
  }, 3 * CLIENTS);
  await pool.end();
});

check('cursors give rows in parts', async () => {
  await atOnce((number) => connected(async (client) => {
    for (const close of [false, true]) {
      // Without a transaction the server is kept until the cursor is closed.
      const text = 'select $1::int4 + g as n from generate_series(1, 500) g';
      const cursor = client.query(new Cursor(text, [number]));
      const found = [];
      for (;;) {
        const rows = await cursor.read(70);
        found.push(...rows.map((row) => row.n));
        if (rows.length === 0 || (close && found.length >= 140)) break;
      }
      await cursor.close();
      const expected = numbers(close ? 140 : 500).map((n) => number + n + 1);
      assert.deepEqual(found, expected);
      assert.deepEqual(await one(client, 'select $1::int4', [number], 'after'), [number]);
    }
    const failing = client.query(new Cursor('select 1 / (100 - g) from generate_series(1, 200) g'));
    assert.equal((await failing.read(50)).length, 50);
    await fails('22012', failing.read(60));
    assert.deepEqual(await one(client, 'select $1::int4', [number], 'after'), [number]);
  }));
});

check('streams give rows in parts', async () => {
  await atOnce((number) => connected(async (client) => {
    await client.query('begin');
    const text = "select g, repeat($1, 30) as word from generate_series(1, 3000) g";
    const stream = client.query(new QueryStream(text, [`${number}`], { batchSize: 100 }));
    let count = 0;
    for await (const row of stream) {
      count += 1;
      assert.equal(row.g, count);
      assert.equal(row.word, `${number}`.repeat(30));
    }
    assert.equal(count, 3000);
    await client.query('commit');
    const left = client.query(new QueryStream(text, ['left in the middle']));
    for await (const row of left) {
      if (row.g === 150) break;
    }
    assert.deepEqual(await one(client, 'select $1::int4', [number]), [number]);
  }));
});

check('changed tables are read again', async () => {
  const table = await prepareTable('changed', 'a int4');
  const clients = [];
  for (const _ of numbers(CLIENTS)) clients.push(await connect());
  const query = { name: 'stale', text: `select * from ${table} where a = $1`, values: [1] };
  let errors = 0;
  for (const change of numbers(4)) {
    await clients[0].query(`insert into ${table} (a) values (1)`);
    for (const at of [...clients.keys(), ...clients.keys(), ...clients.keys()]) {
      try {
        const { rows } = await clients[at].query(query);
        assert.equal(Object.keys(rows[0]).length, change + 1);
      } catch (error) {
        assert.equal(error.code, '0A000', error.stack);
        errors += 1;
        // The driver does not prepare it anew.
        await clients[at].end();
        clients[at] = await connect();
      }
    }
    await clients[0].query(`alter table ${table} add column b${change} int4`);
  }
  // Once for each client.
  assert.ok(errors <= 3 * CLIENTS, `${errors} errors`);
  for (const client of clients) await client.end();
});

check('cancel requests and timeouts end their own query', async () => {
  await atOnce((number) => connected(async (client) => {
    if (number % 4 === 0) {
      // So long that the query waits for a server no more.
      const timer = setInterval(() => {
        const canceller = new pg.Client();
        canceller.on('error', () => {});
        canceller.connection.on('error', () => {});
        canceller.cancel(client, client._getActiveQuery());
      }, 50);
      await fails('57014', one(client, 'select pg_sleep($1)', [60], 'sleep'));
      clearInterval(timer);
    }
    for (const n of numbers(30)) {
      assert.deepEqual(await one(client, 'select $1::int4', [n + number], 'n'), [n + number]);
    }
    await client.query('begin');
    await client.query('set local statement_timeout = 20');
    await fails('57014', one(client, 'select pg_sleep($1)', [10], 'sleep'));
    await client.query('rollback');
  }));
  await atOnce((number) => connected(async (client) => {
    if (number % 2) await fails('57014', one(client, 'select pg_sleep($1)', [10], 'sleep'));
    else await one(client, 'select pg_sleep($1)', [0.12], 'sleep');
    assert.deepEqual(await one(client, 'select $1::int4', [number], 'n'), [number]);
  }, { statement_timeout: number % 2 ? 100 : undefined }));
});

check('values of all types come back', async () => {
  const values = [
    [true, 'bool'], [2 ** 31 - 1, 'int4'], ['-9223372036854775808', 'int8'], [1.5e300, 'float8'],
    ['-12345678901234567890.000000001', 'numeric'], ["žluťoučký 🐎 'x' \\", 'text'], ['', 'text'],
    [Buffer.from(numbers(256)), 'bytea'], [new Date('2024-02-29T12:00:00.123Z'), 'timestamptz'],
    [{ deep: [1, null, 'ž'] }, 'jsonb'], [{ a: 1 }, 'json'], [[1, null, 3], 'int4[]'],
    [[['a', 'b,'], ['"', '{}']], 'text[]'], [null, 'int4'], [null, 'jsonb'],
    ['11111111-2222-3333-4444-555555555555', 'uuid'],
  ];
  await atOnce((number) => connected(async (client) => {
    for (const [value, type] of [...values.slice(number), ...values.slice(0, number)]) {
      for (const statement of [undefined, `value ${type}`]) {
        assert.deepEqual(await one(client, `select $1::${type}`, [value], statement), [value]);
      }
    }
  }));
});

check('large values and results arrive', async () => {
  await atOnce((number) => connected(async (client) => {
    const data = Buffer.alloc(1_200_000, `${number}ž`);
    const [found] = await one(client, 'select $1::bytea', [data], 'data');
    assert.ok(data.equals(found));
    const text = `${number}ž`.repeat(500_000);
    assert.ok((await one(client, 'select $1::text', [text], 'text'))[0] === text);
    const { rows } = await client.query({ name: 'rows', values: [`${number}`],
      text: 'select g, repeat($1, 20) as word from generate_series(1, 10000) g' });
    assert.equal(rows.reduce((sum, row) => sum + row.g, 0), 50005000);
    assert.ok(rows.every((row) => row.word === `${number}`.repeat(20)));
  }));
});

check('settings follow the client', async () => {
  await atOnce((number) => connected(async (client) => {
    const zone = ['UTC', 'Asia/Tokyo', 'America/New_York'][number % 3];
    await client.query(`set time zone '${zone}'`);
    for (const _ of numbers(10)) {
      const shown = await one(client, "select current_setting('TimeZone'),"
        + " current_setting('application_name'), current_setting('search_path')", [], 'shown');
      assert.deepEqual(shown, [zone, `client ${number}`, `public,app${number}`]);
    }
  }, { application_name: `client ${number}`, options: `-c search_path=public,app${number}` }));
});

runChecks();
