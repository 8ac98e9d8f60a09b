#!/usr/bin/env python3
"""Compares load_test with pgbench on one local PostgreSQL. See README.md beside it; it measures and never judges."""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time

from clients import Clients, Load
from server import HERE, SETTINGS, BenchError, find_bin, local_server

ROOT = os.path.dirname(HERE)
# name: (title, whether load_test is given --pipeline, shape of pgbench's script)
MODES = {
    "sequential": ("sequential: round trips a request: load_test 5 (BEGIN goes with the first write), pgbench 6",
                   False, "sequential"),
    "joined": ("sequential, BEGIN goes with the first write in both: 5 round trips each", False, "joined"),
    "pipeline": ("pipelined: 1 round trip each", True, "pipeline"),
}
FIGURES = {"requests_per_second": ("requests/s", ",.0f"), "cpu_us_per_request": ("client CPU, µs a request", ",.1f"),
           "peak_rss_mb": ("client peak RSS, MB", ",.1f")}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--pairs", type=int, default=5, metavar="N", help="runs of each program, in turns")
    add("--seconds", type=int, default=8, metavar="S", help="length of a run")
    add("--modes", nargs="*", choices=MODES, default=list(MODES), help="what is compared at full speed")
    add("--output-kb", type=float, default=10, metavar="KB", help="size of chat_inference.output")
    add("--raw-response-kb", type=float, default=10, metavar="KB", help="size of model_inference.raw_response")
    add("--clients", type=int, default=4, metavar="N", help="connections")
    add("--threads", type=int, default=2, metavar="N", help="threads of the client")
    add("--lateness", action="store_true", help="also how late requests start at 300/s on 8 connections")
    add("--memory", action="store_true", help="also memory at 32 connections and 1 MB + 1 MB (two runs of 65 s)")
    add("--ceiling", action="store_true", help="also what the server does without a client")
    add("--binary", metavar="FILE", default=os.environ.get("LOAD_TEST"),
        help="load_test to measure, also $LOAD_TEST; without it, one is built from these sources")
    add("--pg-bin", metavar="FOLDER", help="where initdb, postgres, psql and pgbench are (default: the newest found)")
    add("--json", metavar="FILE", help="also write the figures of every run to this file")
    options = parser.parse_args()
    if min(options.pairs, options.seconds, options.clients, options.threads) < 1:
        parser.error("--pairs, --seconds, --clients and --threads must be at least 1")
    if min(options.output_kb, options.raw_response_kb) < 0.1:
        parser.error("sizes must be at least 0.1 KB")
    # pgbench refuses more threads than clients.
    options.threads = min(options.threads, options.clients)
    return options


def build():
    command = ["cargo", "build", "--release", "--locked", "--bin", "load_test"]
    say(" ".join(command))
    try:
        done = subprocess.run(command, cwd=ROOT)
    except FileNotFoundError:
        raise BenchError("cargo is not installed; give a load_test with --binary") from None
    if done.returncode != 0:
        raise BenchError("load_test could not be built")
    return os.path.join(ROOT, os.environ.get("CARGO_TARGET_DIR", "target"), "release", "load_test")


def say(text):
    """Progress; stdout is for the figures."""
    print(text, file=sys.stderr, flush=True)


def first_line(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout.partition("\n")[0]


def facts(binary, pg_bin):
    def field(path, name):
        with open(path) as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith(name)), "unknown")

    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "cpu": field("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": int(field("/proc/meminfo", "MemTotal").split()[0]) // 1024,
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load_average": os.getloadavg(),
        "load_test": first_line(binary, "--version"),
        "postgres": first_line(os.path.join(pg_bin, "postgres"), "--version"),
        "pgbench": first_line(os.path.join(pg_bin, "pgbench"), "--version"),
        "settings": {**SETTINGS, "fsync": "on", "tables": "UNLOGGED"},
    }


def spread(values, form):
    """Median and, in brackets, least and greatest."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def row(*cells, widths=(28, 26, 26, 22)):
    print(("  " + "".join(f"{cell:<{width}}" for cell, width in zip(cells, widths))).rstrip())


def in_turns(options, title, runs):
    """Calls each of `runs` (name: function) once a pair and returns the lists of what they said."""
    found = {name: [] for name in runs}
    for pair in range(options.pairs):
        for name, run in runs.items():
            found[name].append(run())
            say(f"{title}, {pair + 1} of {options.pairs}, {name}: {found[name][-1]['requests_per_second']:,.0f}/s")
    return found


def load(options, **changes):
    return Load(**{"seconds": options.seconds, "clients": options.clients, "threads": options.threads,
                   "output_kb": options.output_kb, "raw_response_kb": options.raw_response_kb, **changes})


def full_speed(options, clients, mode):
    title, pipeline, shape = MODES[mode]
    asked = load(options)
    found = in_turns(options, mode, {"load_test": lambda: clients.load_test(asked, pipeline=pipeline),
                                     "pgbench": lambda: clients.pgbench(asked, shape)})
    print(f"\n{title}")
    row("", "load_test", "pgbench", "load_test ÷ pgbench")
    for name, (label, form) in FIGURES.items():
        ours, theirs = ([run[name] for run in found[program]] for program in ("load_test", "pgbench"))
        ratios = [one / other for one, other in zip(ours, theirs)]
        row(label, spread(ours, form), spread(theirs, form), spread(ratios, ".2f"))
    return found


def lateness(options, clients):
    asked = load(options, rate=300, clients=8)
    found = in_turns(options, "lateness", {
        "load_test constant": lambda: clients.load_test(asked, arrival="constant"),
        "load_test poisson": lambda: clients.load_test(asked, arrival="poisson"),
        "pgbench": lambda: clients.pgbench(asked),
    })
    print("\nlateness at 300 requests/s on 8 connections, ms: how long after it was due a request started")
    widths = (40, 9, 9, 9, 9, 14)
    row("medians of the runs", "p50", "p99", "mean", "max", "requests a run", widths=widths)
    for program, kind, label in [
        ("load_test constant", "lateness_ms", "load_test, constant: a worker was free"),
        ("load_test constant", "wait_for_connection_ms", "load_test, constant: all were busy"),
        ("load_test poisson", "lateness_ms", "load_test, poisson: a worker was free"),
        ("load_test poisson", "wait_for_connection_ms", "load_test, poisson: all were busy"),
        ("pgbench", "schedule_lag_ms", "pgbench -R (poisson): all"),
    ]:
        runs = [run[kind] for run in found[program]]
        cells = []
        for name in ("p50", "p99", "avg", "max"):
            values = [run[name] for run in runs if run[name] is not None]
            cells.append(f"{statistics.median(values):.3f}" if values else "–")
        row(label, *cells, f"{statistics.mean(run['count'] for run in runs):,.1f}", widths=widths)
    return found


def memory(options, clients):
    moments = (10, 60)
    asked = load(options, rate=60, clients=32, seconds=65, output_kb=1024, raw_response_kb=1024)
    found, widths = {}, (14, 20, 20, 14, 14)
    print("\nmemory of the client at 32 connections, 1 MB + 1 MB, 60 requests/s asked for")
    row("", *(f"RSS at {moment} s, MB" for moment in moments), "peak, MB", "requests/s", widths=widths)
    for name, run in {"load_test": clients.load_test, "pgbench": clients.pgbench}.items():
        say(f"memory, {name}: {asked.seconds} s")
        found[name] = run(asked, sample_at=moments)
        values = [*(found[name]["rss_mb_at"][moment] for moment in moments), found[name]["peak_rss_mb"],
                  found[name]["requests_per_second"]]
        row(name, *(f"{value:.1f}" for value in values), widths=widths)
    return found


def ceiling(options, clients):
    found = in_turns(options, "ceiling", {"server": lambda: clients.ceiling(load(options))})
    print(f"\nthe server alone, {options.clients} sessions of a procedure that makes the same writes")
    row("transactions/s", spread([run["requests_per_second"] for run in found["server"]], ",.0f"))
    return found


def main():
    options = arguments()
    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, lambda number, _: sys.exit(128 + number))
    pg_bin = find_bin(options.pg_bin)
    binary = os.path.abspath(options.binary or build())
    if not os.access(binary, os.X_OK):
        raise BenchError(f"{binary} is not a program")
    machine = facts(binary, pg_bin)
    figures = {"machine": machine, "options": {key: value for key, value in vars(options).items() if key != "json"}}
    print(f"{machine['date']}; {machine['cores']} cores, {machine['cpu']}, {machine['memory_mb']:,} MB; "
          f"{machine['kernel']}; load average {machine['load_average'][0]:.1f}")
    print(f"{machine['load_test']}; {machine['postgres']}; {machine['pgbench']}")
    print("; ".join(f"{key} = {value}" for key, value in machine["settings"].items()))
    print(f"{options.pairs} runs of each in turns, {options.seconds} s each; {options.clients} connections, "
          f"{options.threads} client threads; output {options.output_kb:g} KB, raw_response "
          f"{options.raw_response_kb:g} KB; median (least–greatest)", flush=True)
    with local_server(pg_bin) as server:
        clients = Clients(server, binary)
        for mode in options.modes:
            figures.setdefault("full_speed", {})[mode] = full_speed(options, clients, mode)
        for name, part in {"lateness": lateness, "memory": memory, "ceiling": ceiling}.items():
            if getattr(options, name):
                figures[name] = part(options, clients)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(figures, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(f"compare.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
