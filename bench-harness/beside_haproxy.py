#!/usr/bin/env python3
"""Measures patroni_proxy beside HAProxy in TCP mode: CPU per transaction, bulk, memory of idle connections.

Owns: a throw-away PostgreSQL, a scripted Patroni endpoint that names it the leader, both proxies.
Does not own: what real clusters do (tests/it/patroni).

    bench-harness/beside_haproxy.py [--program target/release/patroni_proxy] [--threads 1] [--rounds 3] [--seconds 6]

Needs haproxy, pgbench, psql and PostgreSQL's server programs. As root it runs PostgreSQL as the user `postgres`.
"""

import argparse
import atexit
import glob
import http.server
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time

IDLE = 5000
BULK = "copy (select repeat('x', 1000) from generate_series(1, 500000)) to stdout"
BULK_MB = 500000 * 1001 / 1e6
TICK = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(port):
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"nobody listens on port {port}")


class Postgres:
    def __init__(self, place):
        self.bin = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]
        self.user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        self.data, self.port = f"{place}/data", free_port()
        if self.user:
            shutil.chown(place, "postgres")
        self.run("initdb", "-D", self.data, "-U", "bench", "-A", "trust")
        settings = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=100 -c fsync=off"
        self.run("pg_ctl", "-D", self.data, "-l", f"{place}/log", "-o", settings, "-w", "start")
        tool("pgbench", self.port, "-i", "-s", "10", "-q")

    def run(self, program, *arguments):
        subprocess.run([*self.user, f"{self.bin}/{program}", *arguments], check=True, capture_output=True, cwd="/")

    def stop(self):
        self.run("pg_ctl", "-D", self.data, "-m", "immediate", "stop")


def tool(program, port, *arguments):
    command = [program, "-h", "127.0.0.1", "-p", str(port), "-U", "bench", *arguments, "postgres"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def patroni(port_of_member):
    """A REST endpoint with one leader."""
    member = {"name": "one", "role": "leader", "state": "running", "host": "127.0.0.1", "port": port_of_member, "timeline": 1}
    body = json.dumps({"scope": "bench", "members": [member]}).encode()

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


class Proxy:
    def __init__(self, name, place, backend, options):
        self.name, self.port = name, free_port()
        path = f"{place}/{name}-{backend}"
        if name == "haproxy":
            path += ".cfg"
            text = (
                f"global\n nbthread {options.threads}\n maxconn 6000\n"
                "defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n"
                f"listen all\n bind 127.0.0.1:{self.port}\n server one 127.0.0.1:{backend}\n"
            )
            command = ["haproxy", "-db", "-f", path]
        else:
            path += ".toml"
            text = (
                f"worker_threads = {options.threads}\nlisten_address = '127.0.0.1:{free_port()}'\n"
                f"[clusters.bench]\nhosts = ['http://127.0.0.1:{patroni(backend)}']\n"
                f"[clusters.bench.ports.leader]\nlisten = '127.0.0.1:{self.port}'\nroles = ['leader']\nhost_port = {backend}\n"
            )
            command = [options.program, path]
        with open(path, "w") as file:
            file.write(text)
        self.child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        atexit.register(self.child.kill)
        wait_for(self.port)

    def cpu_seconds(self):
        with open(f"/proc/{self.child.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def private_kib(self):
        with open(f"/proc/{self.child.pid}/smaps_rollup") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("Private_"))

    def stop(self):
        self.child.terminate()
        self.child.wait()


def transactions(proxy, seconds):
    """CPU in µs per transaction, and transactions a second."""
    before = proxy.cpu_seconds()
    told = tool("pgbench", proxy.port, "-n", "-S", "-c", "40", "-j", "2", "-T", str(seconds))
    used = proxy.cpu_seconds() - before
    lines = dict(line.split(":", 1) for line in told.splitlines() if ":" in line)
    count = int(lines["number of transactions actually processed"])
    rate = next(line.split()[2] for line in told.splitlines() if line.startswith("tps"))
    return used / count * 1e6, float(rate)


def bulk(proxy):
    """MB a second, and CPU in µs per MB."""
    before, begin = proxy.cpu_seconds(), time.monotonic()
    tool("psql", proxy.port, "-q", "-o", "/dev/null", "-c", BULK)
    took = time.monotonic() - begin
    return BULK_MB / took, (proxy.cpu_seconds() - before) / BULK_MB * 1e6


def idle(name, place, options):
    """KiB of private memory for each of many connections that do nothing."""
    backend = socket.create_server(("127.0.0.1", 0), backlog=1024)
    accepted = []
    threading.Thread(target=lambda: [accepted.append(backend.accept()[0]) for _ in range(IDLE)], daemon=True).start()
    proxy = Proxy(name, place, backend.getsockname()[1], options)
    clients, marks = [], {}
    for number in range(1, IDLE + 1 - 8):
        clients.append(socket.create_connection(("127.0.0.1", proxy.port)))
        if number in (500, 4500):
            while len(accepted) < number:
                time.sleep(0.05)
            marks[number] = proxy.private_kib()
    for connection in clients + accepted:
        connection.close()
    proxy.stop()
    return (marks[4500] - marks[500]) / 4000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="target/release/patroni_proxy")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=6)
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20000), hard))
    place = tempfile.mkdtemp(prefix="beside-haproxy-")
    os.chmod(place, 0o755)
    names, figures = ["patroni_proxy", "haproxy"], {}
    postgres = Postgres(place)
    try:
        proxies = {name: Proxy(name, place, postgres.port, options) for name in names}
        for round_number in range(options.rounds):
            for name, proxy in proxies.items():
                values = (*transactions(proxy, options.seconds), *bulk(proxy))
                print(f"round {round_number + 1} {name}: %.1f µs/tx, %.0f tx/s, %.0f MB/s, %.0f µs/MB" % values, flush=True)
                figures.setdefault(name, []).append(values)
        for proxy in proxies.values():
            proxy.stop()
        medians = {name: [statistics.median(column) for column in zip(*rows)] for name, rows in figures.items()}
        for name in names:
            medians[name].append(idle(name, place, options))
        for at, what in enumerate(["CPU, µs/tx", "tx/s", "bulk, MB/s", "CPU, µs/MB", "idle, KiB/connection"]):
            ours, theirs = (medians[name][at] for name in names)
            print(f"| {what} | {ours:.2f} | {theirs:.2f} | {ours / theirs:.2f}× |")
    finally:
        postgres.stop()
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
