#!/usr/bin/env python3
"""The ceiling of load_test itself: what it reaches on one core against a server that answers at once.

See README.md beside it; it measures and never judges.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from clients import measure
from compare import facts, machine_line, row, say, set_out, spread
from server import HERE, TABLES, BenchError, local_server

MODES = {"pipelined": ["--pipeline"], "sequential": []}
STUBS = {"sleeping": [], "spinning": ["--spin"]}
# Of a run: (label, form)
FIGURES = {
    "requests_per_second": ("requests/s", ",.0f"),
    "requests_per_cpu_second": ("requests a CPU second of load_test", ",.0f"),
    "cpu_us": ("CPU of load_test, µs a request", ".1f"),
    "whole_cpu_us": ("… with start and connecting", ".1f"),
    "switches": ("its context switches a request", ".2f"),
    "busiest_thread_pct": ("its thread was busy, %", ".0f"),
    "run_queue_wait_pct": ("its thread waited for its core, %", ".1f"),
    "stub_cpu_pct": ("the stub was busy, %", ".0f"),
    "stub_cpu_us": ("CPU of the stub, µs a request", ".1f"),
    "others_pct": ("all else on both cores, % of one", ".0f"),
}
LATENESS = {
    **{f"lateness_{name}": (f"lateness {label}, ms", ".3f")
       for name, label in {"p50": "p50", "p99": "p99", "p99_9": "p99.9", "max": "max", "avg": "mean"}.items()},
    "waited_pct": ("no worker was free, % of requests", ".2f"),
    "latency_p50": ("latency p50, ms", ".3f"),
}
REACHED = {name: FIGURES[name] for name in ("requests_per_second", "cpu_us", "switches", "busiest_thread_pct",
                                            "run_queue_wait_pct", "stub_cpu_pct", "others_pct")}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=int, default=3, metavar="N", help="runs of each kind, in turns")
    add("--seconds", type=int, default=8, metavar="S", help="length of the measured window")
    add("--warmup", type=int, default=1, metavar="S", help="load before it")
    add("--workers", type=int, nargs="*", default=[4, 8, 16], metavar="N", help="connections at full speed")
    add("--rates", type=int, nargs="*", default=[1000, 10000], metavar="RATE", help="requests/s for the lateness")
    add("--rate-workers", type=int, default=8, metavar="N", help="connections at these rates, and at --beyond")
    add("--beyond", type=int, default=200000, metavar="RATE", help="requests/s that no core can issue; 0 leaves it out")
    add("--modes", nargs="+", choices=MODES, default=list(MODES), help="ways to send a request")
    add("--stubs", nargs="+", choices=STUBS, default=list(STUBS),
        help="what the stub does between requests, at full speed; else the first of these")
    add("--kb", type=float, default=1, metavar="KB", help="size of each of the four documents")
    add("--tcp", action="store_true", help="TCP on loopback instead of a unix socket")
    add("--binary", metavar="FILE", default=os.environ.get("LOAD_TEST"),
        help="load_test to measure, also $LOAD_TEST; without it, one is built from these sources")
    add("--stub", metavar="FILE", help="a stub_server; without it, one is built with rustc")
    add("--pg-bin", metavar="FOLDER", help="where initdb, postgres, psql and pgbench are (default: the newest found)")
    add("--json", metavar="FILE", help="also write the figures of every run to this file")
    options = parser.parse_args()
    if min(options.rounds, options.seconds, options.rate_workers, *options.workers, *options.rates) < 1:
        parser.error("--rounds, --seconds, --workers, --rates and --rate-workers must be at least 1")
    if min(options.warmup, options.beyond) < 0 or options.kb < 0.1:
        parser.error("--warmup and --beyond must not be negative, and --kb at least 0.1")
    return options


def choose_cores():
    """One for load_test and one for everything else: of different processors where there are several, since two that
    share one slow each other. None where this process may use only one."""
    cores = sorted(os.sched_getaffinity(0))
    siblings = {cores[0]}
    with contextlib.suppress(OSError):
        with open(f"/sys/devices/system/cpu/cpu{cores[0]}/topology/thread_siblings_list") as file:
            for part in file.read().split(","):
                first, _, last = part.partition("-")
                siblings.update(range(int(first), int(last or first) + 1))
    others = [core for core in cores if core not in siblings] or cores[1:]
    return (cores[0], others[0]) if others else None


def built_stub(folder):
    path = os.path.join(folder, "stub_server")
    source = os.path.join(HERE, "stub_server.rs")
    try:
        done = subprocess.run(["rustc", "-O", "--edition", "2024", "-o", path, source])
    except FileNotFoundError:
        raise BenchError("rustc is not installed; give a stub_server with --stub") from None
    if done.returncode != 0:
        raise BenchError("the stub could not be built")
    return path


class Stub:
    """A process in front of the server; what it has counted and used, once it has ended."""

    def __init__(self, path, server, kind, tcp):
        self.listen = os.path.join(server.folder, ".s.PGSQL.5433")
        argv = [path, *STUBS[kind], *(["--tcp", "0"] if tcp else []),
                os.path.join(server.folder, ".s.PGSQL.5432"), self.listen]
        # Not in the session of the terminal: at Ctrl-C it is to stay until load_test has ended.
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        start_new_session=True)
        said = self.process.stdout.readline().split()
        if said[:1] != ["ready"]:
            self.process.wait()
            raise BenchError("the stub did not start")
        where = f"host=127.0.0.1 port={said[1]} sslmode=disable" if tcp else f"host='{server.folder}' port=5433"
        self.url = f"{where} user=postgres dbname=bench"

    def end(self):
        """Its counts, and the CPU seconds that it used."""
        self.process.stdin.close()
        text = self.process.stdout.read()
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        if self.process.returncode != 0:
            raise BenchError("the stub failed")
        return json.loads(text), usage.ru_utime + usage.ru_stime

    def kill(self):
        if self.process.returncode is None:
            self.process.kill()
            self.process.wait()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.listen)


class Generator:
    """Runs load_test on its core, each time with a stub of its own."""

    def __init__(self, options, binary, stub, server, cores):
        self.options, self.binary, self.stub, self.server, self.cores = options, binary, stub, server, cores

    def run(self, kind, rate, mode, workers):
        options = self.options
        size = repr(options.kb)
        # What cannot be issued only piles up in a warm-up, and the window would begin with it.
        warmup = 0 if rate == options.beyond else options.warmup
        argv = [self.binary, "--json-output", "--no-reset", "--threads", "1", "--workers", str(workers),
                "--rps", "max" if rate is None else str(rate), "--duration", str(options.seconds),
                "--warmup", str(warmup), "--input-size-kb", size, "--output-size-kb", size,
                "--raw-request-size-kb", size, "--raw-response-size-kb", size, *MODES[mode]]
        pin = self.cores and (lambda: os.sched_setaffinity(0, {self.cores[0]}))
        stub = Stub(self.stub, self.server, kind, options.tcp)
        try:
            before = busy_seconds(self.cores)
            # Exit code 1 is its verdict, which is among the figures. To look at its memory would take time from the stub.
            process = measure(argv, {**self.server.env, "POSTGRES_URL": stub.url}, exit_codes=(0, 1),
                              watch_memory=False, before=pin)
            busy = busy_seconds(self.cores) - before
            counts, stub_cpu = stub.end()
        finally:
            stub.kill()
        return figures(process, counts, stub_cpu, busy)


def busy_seconds(cores):
    """How long these cores (None: all that we may use) were not idle, whatever they did, or taken away by a hypervisor;
    since some instant in the past."""
    cores = cores or os.sched_getaffinity(0)
    names = [f"cpu{core}" for core in cores]
    with open("/proc/stat") as file:
        found = [line.split() for line in file]
    # idle and iowait, which are measured. The others are sampled by the tick, which strikes together with regular load.
    idle = sum(int(line[at]) for line in found if line[0] in names for at in (4, 5)) / os.sysconf("SC_CLK_TCK")
    return time.monotonic() * len(cores) - idle


def figures(process, counts, stub_cpu, busy):
    """Of a run in which every request was answered, and each by the stub."""
    result = json.loads(process.output)
    account, warmup, own = result["accounting"], result["run"]["warmup"], result["generator"]
    wrong = {f"{part}.{name}": found[name] for part, found, names in [
        ("accounting", account, ("failed", "unknown", "skipped", "unfinished")),
        ("warmup", warmup, ("failed", "unknown", "skipped", "unfinished")),
        ("result", result, ("reconnects",))] for name in names if found[name]}
    requests = account["ok"] + warmup["ok"]
    if wrong or not account["ok"] or account["scheduled"] != account["ok"] + account["not_started"]:
        raise BenchError(f"not every request was answered: {wrong} {account} {result['errors']}")
    if counts["commits"] != requests:
        raise BenchError(f"load_test counts {requests} requests, and the stub {counts['commits']}")
    # Start to end of the load, but for the last answers.
    seconds = result["run"]["window_start_s"] + result["run"]["window_seconds"]
    return {
        "requests": requests,
        "requests_per_second": result["throughput"]["actual_rps"],
        "requests_per_cpu_second": 1e6 / own["cpu_us_per_request"],
        "cpu_us": own["cpu_us_per_request"],
        "whole_cpu_us": process.cpu_seconds * 1e6 / requests,
        "switches": process.context_switches / requests,
        "involuntary_switches": process.involuntary_switches / requests,
        "busiest_thread_pct": own["busiest_thread_pct"],
        "run_queue_wait_pct": own["run_queue_wait_pct"],
        "stub_cpu_pct": stub_cpu / seconds * 100,
        "stub_cpu_us": stub_cpu * 1e6 / requests,
        "others_pct": max(0, busy - process.cpu_seconds - stub_cpu) / seconds * 100,
        "stub": counts,
        **{f"lateness_{name}": result["lateness_ms"][name] for name in ("p50", "p99", "p99_9", "max", "avg")},
        "lateness_count": result["lateness_ms"]["count"],
        "waited_pct": result["wait_for_connection_ms"]["count"] / account["scheduled"] * 100,
        "not_started": account["not_started"],
        "latency_p50": result["latency_ms"]["p50"],
        "latency_p99": result["latency_ms"]["p99"],
        "status": result["status"],
        "reason": result["reason"],
    }


def table(title, columns, rows):
    """`columns` are lists of runs by name."""
    print(f"\n{title}")
    widths = (38, *(26 for _ in columns))
    row("", *columns, widths=widths)
    for name, (label, form) in rows.items():
        cells = []
        for runs in columns.values():
            # Lateness is told only of requests for which a worker was free.
            values = [run[name] for run in runs if run[name] is not None]
            cells.append(spread(values, form) if values else "–")
        row(label, *cells, widths=widths)


def plan(options):
    """What is run in each round: what the stub does, rate (None: as fast as it can), mode, workers."""
    first = options.stubs[0]
    runs = [(kind, None, mode, workers)
            for mode in options.modes for kind in options.stubs for workers in options.workers]
    runs += [(first, rate, mode, options.rate_workers) for rate in options.rates for mode in options.modes]
    return runs + ([(first, options.beyond, options.modes[0], options.rate_workers)] if options.beyond else [])


def report(options, found):
    first = options.stubs[0]
    for mode in options.modes:
        for kind in options.stubs:
            columns = {f"{workers} workers": found[kind, None, mode, workers] for workers in options.workers}
            # A stub that spins is always busy.
            rows = {name: label for name, label in FIGURES.items() if kind != "spinning" or "stub" not in name}
            if columns:
                table(f"as fast as it can, {mode}; stub {kind}", columns, rows)
    columns = {f"{rate:,}/s {mode}": found[first, rate, mode, options.rate_workers]
               for rate in options.rates for mode in options.modes}
    if columns:
        table(f"at a rate, {options.rate_workers} workers; stub {first}", columns, {**LATENESS, **REACHED})
    if options.beyond:
        runs = found[first, options.beyond, options.modes[0], options.rate_workers]
        reached = statistics.median(run["requests_per_second"] for run in runs)
        print(f"\n{options.beyond:,}/s asked for, {options.modes[0]}, {options.rate_workers} workers; stub {first}: "
              f"{reached:,.0f}/s reached")
        for run in runs:
            print(f"  {run['status']}: {run['reason']}")


def main():
    options = arguments()
    pg_bin, binary = set_out(options)
    machine, cores = facts(binary, pg_bin), choose_cores()
    print(f"{machine['date']}; {machine_line(machine)}")
    if cores is None:
        where = "not pinned, for there is one core for both"
        # Spinning, it would only take load_test's time.
        options.stubs = ["sleeping"]
    else:
        where = f"load_test on core {cores[0]}, the stub on core {cores[1]}"
    print(f"{machine['load_test']}, one thread; {machine['postgres']} behind the stub; {where}")
    print(f"{options.rounds} runs of each in turns, {options.seconds} s each after {options.warmup} s; four documents "
          f"of {options.kb:g} KB; {'TCP on loopback' if options.tcp else 'unix socket'}; median (least–greatest)",
          flush=True)
    found = {run: [] for run in plan(options)}
    folder = tempfile.mkdtemp(prefix="stub-bench-")
    try:
        stub = os.path.abspath(options.stub or built_stub(folder))
        if cores is not None:
            # What is started from here on inherits it: the server, which is idle, and the stubs.
            os.sched_setaffinity(0, {cores[1]})
        with local_server(pg_bin, max_connections=max([options.rate_workers, *options.workers]) + 20) as server:
            generator = Generator(options, binary, stub, server, cores)
            for number in range(options.rounds):
                for (kind, rate, mode, workers), done in found.items():
                    done.append(generator.run(kind, rate, mode, workers))
                    say(f"{number + 1} of {options.rounds}, stub {kind}, {rate or 'max'}/s, {mode}, {workers} workers: "
                        f"{done[-1]['requests_per_second']:,.0f}/s, {done[-1]['status']}")
            (rows,) = server.sql("SELECT " + " + ".join(f"(SELECT count(*) FROM {name})" for name in TABLES))
            if rows != ["0"]:
                raise BenchError(f"{rows[0]} rows reached the database behind the stub")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report(options, found)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": machine, "cores": cores,
                       "options": {key: value for key, value in vars(options).items() if key != "json"},
                       "runs": [{"stub": kind, "rate": rate, "mode": mode, "workers": workers, "figures": done}
                                for (kind, rate, mode, workers), done in found.items()]}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(f"generator.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
