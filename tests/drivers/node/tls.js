// Drivers of Node.js over TLS: a short login and a query with each kind of setting.
//
// Owns: what each setting must do against a pooler that wants TLS.
// Does not own: where the pooler is (PGHOST and the like); DOORMAN_CA and DOORMAN_OTHER_CA are the authority
// of its certificate and another one.
//
// Source: node-postgres.com/features/ssl; the manual of postgres.js; nodejs.org/api/tls.html.

'use strict';

const assert = require('assert');
const fs = require('fs');
const { Client } = require('pg');
const postgres = require('postgres');

const ca = fs.readFileSync(process.env.DOORMAN_CA, 'utf8');
const other = fs.readFileSync(process.env.DOORMAN_OTHER_CA, 'utf8');

const settings = [
  { name: 'none', ssl: false, must: false },
  { name: 'encrypted only', ssl: { rejectUnauthorized: false }, must: true },
  { name: 'verified', ssl: { rejectUnauthorized: true, ca }, must: true },
  { name: 'another authority', ssl: { rejectUnauthorized: true, ca: other }, must: false },
];

async function nodePostgres(ssl) {
  const client = new Client({ ssl });
  await client.connect();
  const { rows } = await client.query('select $1::int as value', [42]);
  await client.end();
  return rows[0].value;
}

async function nodePostgresBound() {
  const client = new Client({ ssl: { ca }, enableChannelBinding: true });
  await client.connect();
  const { rows } = await client.query('select 42 as value');
  await client.end();
  return rows[0].value;
}

async function postgresJs(ssl) {
  const sql = postgres({ ssl, max: 1, connect_timeout: 20 });
  try {
    const rows = await sql`select ${42}::int as value`;
    return rows[0].value;
  } finally {
    await sql.end({ timeout: 1 });
  }
}

async function check(driver, run, { name, ssl, must }) {
  let value;
  try {
    value = await run(ssl);
  } catch (error) {
    assert(!must, `${driver}, ${name}: ${error}`);
    console.log(`${driver}, ${name}: refused as it must be`);
    return;
  }
  assert(must, `${driver}, ${name}: was let in`);
  assert.strictEqual(value, 42);
  console.log(`${driver}, ${name}: served`);
}

async function main() {
  for (const setting of settings) {
    await check('node-postgres', nodePostgres, setting);
    await check('postgres.js', postgresJs, setting);
  }
  assert.strictEqual(await nodePostgresBound(), 42);
  console.log('node-postgres, channel binding: served');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
