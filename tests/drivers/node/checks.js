// The checks of one driver: functions, run one after the other.
//
// Owns: running them, many clients at a time, names of tables, telling what failed.
// Does not own: what is checked. The programs find the pooler by libpq's environment variables.
'use strict';

const assert = require('node:assert/strict');
const path = require('node:path');

// Connections at a time; the pooler has SERVERS_MAX servers for them.
const CLIENTS = 10;
const SERVERS_MAX = 3;

const program = path.basename(process.argv[1], '.js');
const checks = [];

/** Adds a check; `gap` says why it has to fail for now. When it does not, the mark has to go. */
function check(title, body, gap) {
  checks.push({ title, body, gap });
}

/** A name for a table or type that no other program uses. */
function name(stem) {
  return `${program}_${stem}`;
}

/** Runs `body(number)` for many clients at the same time; the first failure fails the check. */
async function atOnce(body, clients = CLIENTS) {
  const runs = Array.from({ length: clients }, (_, number) => body(number));
  for (const [number, result] of (await Promise.allSettled(runs)).entries()) {
    if (result.status === 'rejected') {
      throw new Error(`client ${number} failed`, { cause: result.reason });
    }
  }
}

/** The promise has to fail with this SQLSTATE. */
async function fails(code, promise) {
  await assert.rejects(promise, (error) => {
    assert.equal(error.code, code, error.stack);
    return true;
  });
}

/** The numbers from 0 below `count`. */
function numbers(count) {
  return Array.from({ length: count }, (_, n) => n);
}

/** Runs all checks, or those named on the command line; exits with 1 if one failed. */
async function runChecks() {
  const wanted = process.argv.slice(2);
  let failed = 0;
  for (const { title, body, gap } of checks) {
    if (wanted.length > 0 && !wanted.includes(title)) continue;
    const start = performance.now();
    let fault;
    try {
      await body();
    } catch (error) {
      fault = error;
    }
    const seconds = ((performance.now() - start) / 1000).toFixed(2);
    if (gap && fault) {
      console.log(`known gap ${title}: ${gap}`);
    } else if (fault || gap) {
      failed += 1;
      console.log(`FAILED ${title}`, fault ?? `a known gap is closed: ${gap}`);
    } else {
      console.log(`passed ${title} ${seconds} s`);
    }
  }
  console.log(`${checks.length - failed} passed, ${failed} failed`);
  process.exit(failed > 0 ? 1 : 0);
}

module.exports = { CLIENTS, SERVERS_MAX, assert, atOnce, check, fails, name, numbers, runChecks };
