"""The checks of one driver: a list of functions, run one after the other.

Owns: running them, many clients at a time, names of tables, telling what failed.
Does not own: what is checked. The programs find the pooler by libpq's environment variables.
"""

import asyncio
import inspect
import os
import sys
import threading
import time
import traceback

# Connections at a time; the pooler has SERVERS_MAX servers for them.
CLIENTS = 10
SERVERS_MAX = 3

_checks = []
_gaps = {}


def check(function):
    """Adds a function, plain or async, to the checks of this program."""
    _checks.append(function)
    return function


def known_gap(why):
    """Marks a check that has to fail for now. When it does not, the mark has to go."""

    def mark(function):
        _gaps[function] = why
        return function

    return mark


def name(stem):
    """A name for a table or type that no other program uses."""
    program = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    return f"{program}_{stem}"


def in_threads(body, clients=CLIENTS):
    """Runs `body(number)` in threads at the same time; the first failure fails the check."""
    failures = []

    def run(number):
        try:
            body(number)
        except BaseException:
            failures.append(f"client {number}: {traceback.format_exc()}")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, "\n".join(failures[:3])


async def in_tasks(body, clients=CLIENTS):
    """Runs `await body(number)` in tasks at the same time; the first failure fails the check."""
    results = await asyncio.gather(
        *(body(number) for number in range(clients)), return_exceptions=True
    )
    for number, result in enumerate(results):
        if isinstance(result, BaseException):
            raise AssertionError(f"client {number} failed") from result


def equal(found, expected):
    """Like `assert found == expected`, with both in the message, cut to a readable length."""
    assert found == expected, f"{str(found)[:500]!r} is not {str(expected)[:500]!r}"


def run_checks():
    """Runs all checks, or those named on the command line; exits with 1 if one failed."""
    wanted = sys.argv[1:]
    failed = []
    for function in _checks:
        title = function.__name__
        if wanted and title not in wanted:
            continue
        start = time.monotonic()
        try:
            outcome = function()
            if inspect.isawaitable(outcome):
                asyncio.run(_awaited(outcome))
            fault = None
        except BaseException:
            fault = traceback.format_exc()
        seconds = time.monotonic() - start
        why = _gaps.get(function)
        if why and fault:
            print(f"known gap {title}: {why}")
        elif fault or why:
            failed.append(title)
            print(f"FAILED {title}\n{fault or 'a known gap is closed: ' + why}")
        else:
            print(f"passed {title} {seconds:.2f} s", flush=True)
    print(f"{len(_checks) - len(failed)} passed, {len(failed)} failed")
    sys.exit(1 if failed else 0)


async def _awaited(outcome):
    return await outcome
