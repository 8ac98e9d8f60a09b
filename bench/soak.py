#!/usr/bin/env python3
"""Runs load_test for half an hour at a steady rate while something breaks every few minutes. See README.md beside it.

load_test → a proxy of this script → PgBouncer (transaction mode) → a PostgreSQL of its own. In turns the server is
restarted, frozen and killed, the proxy resets all connections, and PgBouncer is restarted. Exit code 1 where a request
is not accounted for, an acknowledged write is missing, or memory or descriptors grow."""

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time

from compare import ROOT, facts, machine_line, say, set_out
from server import BenchError, local_server

# Names PgBouncer's socket; nothing listens on it as a TCP port.
PORT = 6432
SETTINGS = {"synchronous_commit": "on", "fsync": "on"}
# Memory and descriptors may be so much more in the last tenth of the run than after its first.
MEMORY_GROWTH_MB, DESCRIPTOR_GROWTH = 8, 4


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--minutes", type=float, default=30, metavar="M", help="length of the run")
    add("--every", type=float, default=150, metavar="S", help="seconds from one fault to the next")
    add("--rps", type=float, default=50, metavar="N", help="requests a second")
    add("--workers", type=int, default=8, metavar="N", help="connections of load_test")
    add("--binary", metavar="FILE", default=os.environ.get("LOAD_TEST"), help="load_test, also $LOAD_TEST")
    add("--pg-bin", metavar="FOLDER", help="where initdb, postgres and psql are (default: the newest found)")
    add("--pgbouncer", metavar="FILE", default="/usr/sbin/pgbouncer", help="PgBouncer's program")
    add("--json", metavar="FILE", help="also write load_test's document and the samples to this file")
    options = parser.parse_args()
    if options.minutes * 60 < options.every * 2:
        parser.error("--minutes must leave room for two faults")
    return options


class Proxy:
    """Hands bytes on, in a thread of its own, until it is told to cut."""

    def __init__(self, target):
        self.port, self.target, self.sockets = None, target, set()
        self.loop = asyncio.new_event_loop()
        ready = threading.Event()
        threading.Thread(target=self.run, args=(ready,), daemon=True).start()
        ready.wait()

    def run(self, ready):
        asyncio.set_event_loop(self.loop)
        # TCP, for a Unix socket knows no reset.
        listening = self.loop.run_until_complete(asyncio.start_server(self.serve, "127.0.0.1", 0))
        self.port = listening.sockets[0].getsockname()[1]
        ready.set()
        self.loop.run_forever()

    async def serve(self, reader, writer):
        sock = writer.get_extra_info("socket")
        self.sockets.add(writer)
        try:
            there, onward = await asyncio.open_unix_connection(self.target)
        except OSError:
            writer.transport.abort()
            self.sockets.discard(writer)
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.gather(self.copy(reader, onward), self.copy(there, writer))
        self.sockets.discard(writer)

    async def copy(self, reader, writer):
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    def reset(self):
        def cut():
            for writer in list(self.sockets):
                sock = writer.get_extra_info("socket")
                # Nothing lingers: the other end is told by RST.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
        self.loop.call_soon_threadsafe(cut)


class Pooler:
    """A PgBouncer before the server, on a socket beside the server's."""

    def __init__(self, server, program):
        self.server, self.program, self.process = server, program, None
        self.ini = os.path.join(server.folder, "pgbouncer.ini")
        with open(self.ini, "w") as file:
            file.write(f"""[databases]
* = host={server.folder} port=5432 user=postgres
[pgbouncer]
unix_socket_dir = {server.folder}
listen_port = {PORT}
auth_type = any
pool_mode = transaction
default_pool_size = 6
max_client_conn = 200
logfile = {os.path.join(server.folder, "pgbouncer.log")}
""")
        self.start()

    def start(self):
        self.process = subprocess.Popen([self.program, "-q", self.ini], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                                        **self.server.owner())

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(20)

    def restart(self):
        self.process.kill()
        self.process.wait()
        self.start()


def family(pid):
    """A process and all that came from it."""
    found = [pid]
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            for child in file.read().split():
                found += family(int(child))
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def tell(pids, sign):
    for pid in pids:
        try:
            os.kill(pid, sign)
        except ProcessLookupError:
            pass


def restart(server):
    server.process.send_signal(signal.SIGINT)
    server.process.wait(60)
    server.start()


def crash(server):
    tell(family(server.process.pid), signal.SIGKILL)
    server.process.wait()
    # Its processes must be gone before another server takes their memory over.
    time.sleep(0.5)
    server.start()


def freeze(server):
    pids = family(server.process.pid)
    tell(pids, signal.SIGSTOP)
    time.sleep(5)
    tell(pids, signal.SIGCONT)


def sample(pid):
    with open(f"/proc/{pid}/status") as status:
        rss = re.search(r"VmRSS:\s+(\d+)", status.read())
    if rss is None:
        # It has ended, and only its exit code is left.
        raise ProcessLookupError
    return {"rss_mb": int(rss[1]) / 1024, "descriptors": len(os.listdir(f"/proc/{pid}/fd"))}


def load(binary, server, port, options, seconds, verify):
    argv = [binary, "--json-output", "--rps", f"{options.rps:g}", "--duration", f"{seconds:g}", "--workers",
            str(options.workers), "--output-size-kb", "10", "--raw-response-size-kb", "10", "--no-prepared-statements",
            "--statement-timeout", "10s"]
    env = {**server.env, "POSTGRES_URL": f"host=127.0.0.1 port={port} user=postgres dbname=bench sslmode=disable"}
    return subprocess.Popen(argv + (["--verify"] if verify else []), env=env, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=open(os.path.join(server.folder, "load_test.err"), "w"),
                            text=True)


def document(output, server):
    """What load_test printed, or why it printed nothing."""
    if output:
        return json.loads(output)
    with open(os.path.join(server.folder, "load_test.err"), errors="replace") as file:
        raise BenchError("load_test had no result:\n" + file.read()[-2000:])


def soak(options, binary, server):
    pooler = Pooler(server, options.pgbouncer)
    proxy = Proxy(os.path.join(server.folder, f".s.PGSQL.{PORT}"))
    faults = [("restart of the server", lambda: restart(server)), ("server frozen for 5 s", lambda: freeze(server)),
              ("connections reset", proxy.reset), ("PgBouncer killed and restarted", pooler.restart),
              ("server killed and restarted", lambda: crash(server))]
    try:
        time.sleep(1)
        say("one minute without faults, for comparison")
        calm = document(load(binary, server, proxy.port, options, 60, False).communicate()[0], server)
        process = load(binary, server, proxy.port, options, options.minutes * 60, True)
        began, samples, done = time.monotonic(), [], []
        while process.poll() is None and time.monotonic() - began < options.minutes * 60:
            time.sleep(5)
            at = time.monotonic() - began
            try:
                samples.append({"at": at, **sample(process.pid)})
            except (FileNotFoundError, ProcessLookupError):
                break
            # The last stretch is left in peace, so that the run ends as it began.
            if at >= options.every * (len(done) + 1) and at < options.minutes * 60 - options.every / 2:
                name, fault = faults[len(done) % len(faults)]
                say(f"{at:.0f} s: {name}")
                done.append({"at": at, "fault": name})
                fault()
        output = process.communicate(timeout=180)[0]
        return calm, document(output, server), samples, done
    finally:
        pooler.stop()


def judge(calm, result, samples, done, options):
    """Prints what came of it, and returns what is wrong."""
    account, found, wrong = result["accounting"], result["verification"], []
    parts = ["ok", "failed", "unknown", "skipped", "not_started", "unfinished"]
    if account["scheduled"] != sum(account[part] for part in parts):
        wrong.append(f"requests are not accounted for: {account}")
    if account["scheduled"] != round(options.rps * options.minutes * 60):
        wrong.append(f"the schedule moved: {account['scheduled']} requests were due")
    if result["status"] == "LOST WRITES" or found["error"]:
        wrong.append(f"{result['reason']} ({found})")
    print("requests: " + ", ".join(f"{name} {account[name]:,}" for name in ["scheduled", *parts]))
    print(f"in doubt {found['unsettled']}: committed after all {found['committed']}, not {found['not_committed']}; rows "
          + ", ".join(f"{table['table']} {table['rows']:,}" for table in found["tables"])
          + f"; tickets {found['tickets_taken']:,}")
    print(f"faults: {len(done)}; outages of a second or more: {len(result['outages'])}, the longest "
          f"{max((outage['seconds'] for outage in result['outages']), default=0):.1f} s; reconnects "
          f"{result['reconnects']}")
    for name, unit, most in (("rss_mb", "MB", MEMORY_GROWTH_MB), ("descriptors", "", DESCRIPTOR_GROWTH)):
        tenth = max(1, len(samples) // 10)
        early, late = ([taken[name] for taken in part] for part in (samples[tenth:2 * tenth], samples[-tenth:]))
        print(f"{name}: {statistics.median(early):.1f} {unit} after a tenth of the run, {statistics.median(late):.1f} at "
              f"its end, at most {max(taken[name] for taken in samples):.1f}")
        if statistics.median(late) > statistics.median(early) + most:
            wrong.append(f"{name} grew")
    for name in ("p50", "p99"):
        print(f"lateness {name}: {calm['lateness_ms'][name]} ms in the minute before, {result['lateness_ms'][name]} ms "
              "in the run")
    print(f"verdict: {result['status']}: {result['reason']}")
    for error in result["errors"]:
        print(f"  {error['count']:>6} {error['origin']}: {error['class']} {error['sqlstate'] or ''}")
    return wrong


def main():
    options = arguments()
    pg_bin, binary = set_out(options)
    if not os.access(options.pgbouncer, os.X_OK):
        raise BenchError(f"{options.pgbouncer} is not a program: install pgbouncer, or give --pgbouncer")
    machine = facts(binary, pg_bin)
    print(machine_line(machine))
    with local_server(pg_bin, **SETTINGS) as server:
        with open(os.path.join(ROOT, "schema.sql")) as text:
            server.sql(text.read())
        calm, result, samples, done = soak(options, binary, server)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": machine, "faults": done, "samples": samples, "calm": calm, "result": result}, file)
    wrong = judge(calm, result, samples, done, options)
    for sentence in wrong:
        print(f"WRONG: {sentence}")
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"soak.py: {error}")
