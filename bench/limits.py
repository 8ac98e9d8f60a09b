#!/usr/bin/env python3
"""Provokes each limiting factor on a local PostgreSQL, and counts what load_test names. See README.md beside it.

The table has a row for each factor that was provoked, and a column for each that was named.
"""

import argparse
import collections
import contextlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from clients import measure
from compare import facts, machine_line, say, set_out
from server import HERE, BenchError, local_server

DURABLE = {"fsync": "on", "synchronous_commit": "on"}
SMALL = {"output": 1, "raw-response": 1}
LARGE = {"output": 1024, "raw-response": 1024}
MAX = ["--rps", "max", "--workers", "16"]
# The ten hot rows would hide everything else.
COLD = ["--no-rate-limiting", "--no-experimentation"]


# Each page that is read takes two milliseconds, as from a busy disk. The system would have it in memory.
SLOW_READS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/types.h>
#include <unistd.h>
ssize_t pread64(int file, void *to, size_t bytes, off64_t at) {
    static ssize_t (*next)(int, void *, size_t, off64_t);
    if (!next) next = dlsym(RTLD_NEXT, "pread64");
    usleep(2000);
    return next(file, to, bytes, at);
}
ssize_t pread(int file, void *to, size_t bytes, off_t at) { return pread64(file, to, bytes, at); }
"""


def slow_sync(milliseconds):
    """Each flush of the log takes so long, as on a slow disk."""
    return """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
int fdatasync(int file) {
    static int (*next)(int);
    if (!next) next = dlsym(RTLD_NEXT, "fdatasync");
    usleep(%d000);
    return next(file);
}
""" % milliseconds


class Proxy:
    """Hands bytes on between a TCP port and the server's socket, each way after a delay."""

    def __init__(self, server, delay):
        self.path, self.delay = os.path.join(server.folder, ".s.PGSQL.5432"), delay
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                server = socket.socket(socket.AF_UNIX)
                server.connect(self.path)
                threading.Thread(target=self.carry, args=(client, server), daemon=True).start()

    def carry(self, client, server):
        """One thread a connection: what came in is sent when it is old enough."""
        waiting, other = collections.deque(), {client: server, server: client}
        with selectors.DefaultSelector() as selector, client, server, contextlib.suppress(OSError):
            for end in other:
                selector.register(end, selectors.EVENT_READ)
            while True:
                rest = max(0, waiting[0][0] - time.monotonic()) if waiting else None
                for key, _ in selector.select(rest):
                    data = key.fileobj.recv(1 << 16)
                    if not data:
                        return
                    waiting.append((time.monotonic() + self.delay, other[key.fileobj], data))
                while waiting and waiting[0][0] <= time.monotonic():
                    _, end, data = waiting.popleft()
                    end.sendall(data)

    def url(self):
        return f"host=127.0.0.1 port={self.port} sslmode=disable user=postgres dbname=bench"


@contextlib.contextmanager
def far(server, options):
    # 10 ms each way.
    proxy = Proxy(server, 0.010)
    try:
        yield proxy.url()
    finally:
        proxy.listener.close()


@contextlib.contextmanager
def pooled(server, options):
    """PgBouncer with two connections to the server, in transaction mode."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        raise BenchError("pgbouncer is not installed")
    folder = tempfile.mkdtemp(prefix="pool-", dir=server.folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with open(os.path.join(folder, "pgbouncer.ini"), "w") as file:
        file.write(f"[databases]\nbench = host={server.folder} dbname=bench user=postgres\n[pgbouncer]\n"
                   f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
                   "pool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 200\n"
                   "ignore_startup_parameters = extra_float_digits,options\n")
    if server.account is not None:
        for name in (folder, os.path.join(folder, "pgbouncer.ini")):
            os.chown(name, server.account.pw_uid, server.account.pw_gid)
    process = subprocess.Popen([program, "-q", os.path.join(folder, "pgbouncer.ini")], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **server.owner())
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise BenchError("pgbouncer did not start") from None
                time.sleep(0.1)
        yield f"host=127.0.0.1 port={port} sslmode=disable user=postgres dbname=bench"
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def locked(server, options):
    """A session that locks a table for most of the window, begun when the load runs."""
    text = ("SELECT pg_sleep(2); BEGIN; LOCK TABLE chat_inference IN SHARE MODE; "
            f"SELECT pg_sleep({max(1, options.seconds - 2)}); ROLLBACK")
    session = subprocess.Popen([server.program("psql"), "-XqAt", "-d", "bench"], stdin=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=server.env, text=True)
    session.stdin.write(text.replace("; ", ";\n") + ";\n")
    session.stdin.close()
    try:
        yield None
    finally:
        session.terminate()
        session.wait()


@contextlib.contextmanager
def standby(server, options):
    """A synchronous standby that answers late: pg_receivewal, stopped most of the time."""
    folder = tempfile.mkdtemp(prefix="receive-", dir=server.folder)
    if server.account is not None:
        os.chown(folder, server.account.pw_uid, server.account.pw_gid)
    receiver = subprocess.Popen(
        [server.program("pg_receivewal"), "-D", folder, "--synchronous", "-d",
         f"host='{server.folder}' user=postgres application_name=far"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=server.env,
        **server.owner())
    over = threading.Event()

    def hold_back():
        while not over.is_set():
            receiver.send_signal(signal.SIGSTOP)
            over.wait(0.040)
            receiver.send_signal(signal.SIGCONT)
            over.wait(0.005)

    thread = threading.Thread(target=hold_back)
    try:
        deadline = time.monotonic() + 10
        while server.sql("SELECT count(*) FROM pg_stat_replication") == [["0"]]:
            if receiver.poll() is not None or time.monotonic() > deadline:
                raise BenchError("pg_receivewal did not connect")
            time.sleep(0.1)
        server.sql("ALTER SYSTEM SET synchronous_standby_names = 'far'")
        server.sql("SELECT pg_reload_conf()")
        thread.start()
        yield None
    finally:
        # First nobody may wait for it any more.
        over.set()
        if thread.is_alive():
            thread.join()
        server.sql("ALTER SYSTEM RESET synchronous_standby_names")
        server.sql("SELECT pg_reload_conf()")
        receiver.terminate()
        receiver.wait()


@contextlib.contextmanager
def busy_loops(server, options):
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(6)]
    try:
        yield None
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@contextlib.contextmanager
def apart(server, options):
    """The server has one processor for itself; the generator shares the other one with busy loops."""
    before = os.sched_getaffinity(0)
    ours, *servers = sorted(before)
    if not servers:
        raise BenchError("to set the generator apart takes two processors")
    # Its sessions are on the same ones.
    os.sched_setaffinity(server.process.pid, servers)
    os.sched_setaffinity(0, {ours})
    try:
        with busy_loops(server, options):
            yield None
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def computing(server, options):
    """Each request has the server compute for a millisecond or two."""
    server.sql("CREATE FUNCTION compute() RETURNS trigger LANGUAGE plpgsql AS "
               "'BEGIN PERFORM count(*) FROM generate_series(1, 10000); RETURN NEW; END'")
    server.sql("CREATE TRIGGER compute BEFORE INSERT ON chat_inference FOR EACH ROW EXECUTE FUNCTION compute()")
    try:
        yield None
    finally:
        server.sql("DROP FUNCTION compute() CASCADE")


@contextlib.contextmanager
def ordinary_role(server, options):
    """A role with the rights that role.sql gives, which sees no session but its own."""
    with open(os.path.join(HERE, os.pardir, "role.sql")) as text:
        server.sql("\\set role plain\n" + text.read() + "\nALTER ROLE plain LOGIN")
    yield f"host='{server.folder}' user=plain dbname=bench"


@contextlib.contextmanager
def alone(server, options):
    yield None


# What is provoked: (what must be named; any of these is right), settings of the server, schema, options, what runs beside.
CASES = {
    "none": (["none"], DURABLE, "logged", ["--rps", "100", "--workers", "8"], SMALL, alone),
    "none, large": (["none"], {}, "unlogged", ["--rps", "10", "--workers", "8"], LARGE, alone),
    "row-locks": (["row-locks"], {**DURABLE, "preload": slow_sync(3)}, "logged", MAX, SMALL, alone),
    "row-locks, ordinary role": (["row-locks"], {**DURABLE, "preload": slow_sync(3)}, "logged", MAX, SMALL, ordinary_role),
    "commit-flush": (["commit-flush"], {**DURABLE, "preload": slow_sync(10)}, "logged", [*MAX, *COLD], SMALL, alone),
    "checkpoints": (["checkpoints"], {**DURABLE, "max_wal_size": "32MB", "min_wal_size": "32MB"}, "logged",
                    [*MAX, *COLD], {"output": 10, "raw-response": 10}, alone),
    "network": (["network"], {}, "unlogged", [*MAX, *COLD], SMALL, far),
    "pooler": (["pooler"], {}, "unlogged", [*MAX, *COLD, "--no-prepared-statements"], SMALL, pooled),
    # Commits take 20 ms, so that one worker makes less than 50 requests/s.
    "workers": (["workers"], {**DURABLE, "preload": slow_sync(20)}, "logged", ["--rps", "55", "--workers", "1", *COLD],
                SMALL, alone),
    "other-session": (["other-session"], {}, "unlogged", MAX, SMALL, locked),
    "replication": (["replication"], {**DURABLE, "max_wal_senders": "4", "wal_level": "replica"}, "logged", MAX, SMALL,
                    standby),
    "generator": (["generator"], {}, "unlogged", ["--rps", "2000", "--workers", "16", *COLD], SMALL, apart),
    "neighbours": (["generator", "cpu"], {}, "unlogged", ["--rps", "2000", "--workers", "16", *COLD], SMALL, busy_loops),
    "cpu": (["cpu"], {}, "unlogged", ["--rps", "max", "--workers", "8", *COLD], SMALL, computing),
    "wal-insertion": (["wal-insertion"], {"wal_buffers": "32kB", "fsync": "off"}, "logged", [*MAX, *COLD], LARGE, alone),
    # Pages stay locked while their change waits for room in the log.
    "wal-buffers": (["hot-pages", "wal-insertion"], {"wal_buffers": "32kB", "fsync": "off"}, "logged", [*MAX, *COLD],
                  {"output": 100, "raw-response": 100}, alone),
    "cache-misses": (["cache-misses"], {"shared_buffers": "256kB", "preload": SLOW_READS}, "unlogged", [*MAX, *COLD], SMALL,
                     alone),
    # What the client alone cannot know is not guessed.
    "unseen": (["unknown"], DURABLE, "logged", [*MAX, "--no-server-stats"], SMALL, alone),
    "small-pool": (["pooler"], {}, "unlogged", [*MAX, *COLD, "--no-prepared-statements", "--pipeline"], SMALL, pooled),
    "relation-extension": (["relation-extension"], {}, "unlogged", [*MAX, *COLD], LARGE, alone),
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--runs", type=int, default=10, metavar="N", help="runs of each factor")
    add("--seconds", type=int, default=8, metavar="S", help="length of the measured window")
    add("--only", nargs="+", choices=CASES, default=list(CASES), help="what is provoked")
    add("--binary", metavar="FILE", default=os.environ.get("LOAD_TEST"),
        help="load_test to try, also $LOAD_TEST; without it, one is built from these sources")
    add("--pg-bin", metavar="FOLDER", help="where initdb, postgres, psql and pgbench are (default: the newest found)")
    add("--json", metavar="FILE", help="also write what was named in every run, with its evidence, to this file")
    options = parser.parse_args()
    if options.runs < 1 or options.seconds < 5:
        parser.error("--runs must be at least 1, and --seconds at least 5")
    return options


def provoke(options, binary, server, arguments, sizes, beside):
    server.empty_tables()
    with beside(server, options) as url:
        argv = [binary, "--json-output", "--no-reset", "--duration", str(options.seconds), "--warmup", "1", *arguments,
                *(word for name, kb in sizes.items() for word in (f"--{name}-size-kb", str(kb)))]
        env = {**server.env, **({"POSTGRES_URL": url} if url else {})}
        # Exit code 1 is its verdict.
        result = json.loads(measure(argv, env, exit_codes=(0, 1), watch_memory=False).output)
    return {**result["limit"], "status": result["status"], "reason": result["reason"],
            "rps": result["throughput"]["actual_rps"]}


def table(found):
    named = sorted({run["kind"] for _, runs in found.values() for run in runs})
    print("\n| provoked | " + " | ".join(named) + " | right |")
    print("|---" * (len(named) + 2) + "|")
    for name, (right, runs) in found.items():
        counts = collections.Counter(run["kind"] for run in runs)
        hits = sum(counts[kind] for kind in right)
        cells = " | ".join(str(counts[kind] or "") for kind in named)
        print(f"| {name} | {cells} | {hits} of {len(runs)} |", flush=True)


def main():
    options = arguments()
    pg_bin, binary = set_out(options)
    machine = facts(binary, pg_bin)
    print(f"{machine['date']}; {machine_line(machine)}\n{machine['load_test']}; {machine['postgres']}; "
          f"{options.runs} runs of {options.seconds} s each", flush=True)
    found = {}
    for name in options.only:
        right, settings, kind, words, sizes, beside = CASES[name]
        found[name] = (right, [])
        with local_server(pg_bin, **{"max_connections": 60, **settings}) as server:
            if kind == "logged":
                with open(os.path.join(HERE, os.pardir, "schema.sql")) as text:
                    server.sql(text.read())
            for number in range(options.runs):
                run = provoke(options, binary, server, words, sizes, beside)
                found[name][1].append(run)
                say(f"{name}, {number + 1} of {options.runs}: {run['kind']}: {run['sentence']} ({run['rps']:,.0f}/s)")
    table(found)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": machine, "runs": {name: runs for name, (_, runs) in found.items()}}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(f"limits.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
