#!/usr/bin/env python3
"""Measures what scraping the metrics ten times a second does to the latency of queries.

Owns: a throw-away PostgreSQL, two pg_doormans of which only one has clients, pgbench in turn alone, beside a scraper of the
one that has none (what the scraper and any process cost the machine), and beside a scraper of the one that serves.
Does not own: what the metrics say (tests/it/metrics.rs).

    bench-harness/scraped.py [--program target/release/pg_doorman] [--shards 2] [--rounds 4] [--seconds 8]

Needs pgbench and PostgreSQL's server programs. As root it runs PostgreSQL as the user `postgres`.
"""

import argparse
import atexit
import glob
import os
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request

from beside_haproxy import Postgres, free_port, wait_for

CONFIG = """
[general]
host = "127.0.0.1"
port = {port}
worker_threads = {shards}
admin_username = "admin"
admin_password = "admin"
pg_hba.content = "host all all 127.0.0.1/32 trust"
[prometheus]
enabled = true
host = "127.0.0.1"
port = {metrics}
[pools.postgres]
server_host = "127.0.0.1"
server_port = {server}
pool_mode = "transaction"
[[pools.postgres.users]]
username = "bench"
password = ""
pool_size = 20
"""


class Scraper(threading.Thread):
    """Asks for the metrics every 100 ms until told to end."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.url, self.answers, self.end = f"http://127.0.0.1:{port}/metrics", [], threading.Event()

    def run(self):
        due = time.monotonic()
        while not self.end.is_set():
            self.answers.append(len(urllib.request.urlopen(self.url).read()))
            due += 0.1
            self.end.wait(max(0, due - time.monotonic()))


def percentiles(port, place, seconds, extra):
    """p50 and p99 in ms of every transaction of one run, and how many there were."""
    prefix = f"{place}/latency"
    command = ["pgbench", "-h", "127.0.0.1", "-p", str(port), "-U", "bench", "-n", "-S", "-j", "2", "-T", str(seconds)]
    subprocess.run([*command, "-l", f"--log-prefix={prefix}", *extra, "postgres"], check=True, capture_output=True)
    times = []
    for path in glob.glob(prefix + ".*"):
        with open(path) as file:
            times += [int(line.split()[2]) / 1000 for line in file]
        os.remove(path)
    times.sort()
    return times[len(times) // 2], times[len(times) * 99 // 100], len(times)


def start(options, place, name, server):
    """Its port, the port of its metrics, the process."""
    port, metrics = free_port(), free_port()
    path = f"{place}/{name}.toml"
    with open(path, "w") as file:
        file.write(CONFIG.format(port=port, metrics=metrics, shards=options.shards, server=server))
    child = subprocess.Popen([options.program, path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    atexit.register(child.kill)
    wait_for(port)
    wait_for(metrics)
    return port, metrics, child


def measure(options, place, postgres):
    port, metrics, _ = start(options, place, "serving", postgres.port)
    idle = start(options, place, "idle", postgres.port)[1]
    for name, extra in (("8 clients, 2,000 tx/s", ["-c", "8", "-R", "2000"]), ("40 clients, all they can", ["-c", "40"])):
        sides = {"alone": [], "another scraped": [], "scraped": []}
        asked = {"another scraped": idle, "scraped": metrics}
        for turn in range(options.rounds):
            order = list(sides) if turn % 2 == 0 else list(sides)[::-1]
            for side in order:
                scraper = Scraper(asked[side]) if side in asked else None
                if scraper:
                    scraper.start()
                sides[side].append(percentiles(port, place, options.seconds, extra))
                if scraper:
                    scraper.end.set()
                    scraper.join()
                    print(f"  {side}: {len(scraper.answers)} scrapes, the last of {scraper.answers[-1]} bytes", flush=True)
        for side, rounds in sides.items():
            p50, p99 = ([row[i] for row in rounds] for i in (0, 1))
            print(
                f"{name}, {side}: p50 {statistics.median(p50):.3f} ms, p99 {statistics.median(p99):.3f} ms"
                f" ({min(p99):.3f}-{max(p99):.3f}), {sum(row[2] for row in rounds)} transactions",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default="target/release/pg_doorman")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        postgres = Postgres(place)
        try:
            measure(options, place, postgres)
        finally:
            postgres.stop()


if __name__ == "__main__":
    main()
