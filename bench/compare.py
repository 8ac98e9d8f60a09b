#!/usr/bin/env python3
"""Compares load_test with pgbench on one local PostgreSQL. See README.md beside it; it measures and never judges."""

import argparse
import json
import os
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import textwrap
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
           "context_switches_per_request": ("context switches a request", ",.2f"),
           "peak_rss_mb": ("client peak RSS, MB", ",.1f")}
PROGRAMS = ("load_test", "pgbench")


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
    add("--ceiling", action="store_true", help="also what the server does without a client, in turns with the modes")
    add("--lateness", action="store_true",
        help="also how late requests start at 300/s and at half of full speed, on 8 connections")
    add("--large", action="store_true",
        help="also full speed at 1 MB + 1 MB on 8 connections, beside the cost of copying that much into a socket")
    add("--start", action="store_true",
        help="also the time from the program's start to its first request, with 8 connections and 1 MB + 1 MB")
    add("--memory", action="store_true", help="also memory at 32 connections and 1 MB + 1 MB, one run of each program")
    add("--memory-seconds", nargs="+", type=int, default=[10, 60], metavar="S",
        help="when --memory looks; a run ends 5 s after the last, and writes up to 126 MB a second")
    add("--memory-programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS), help="what --memory runs")
    add("--binary", metavar="FILE", default=os.environ.get("LOAD_TEST"),
        help="load_test to measure, also $LOAD_TEST; without it, one is built from these sources")
    add("--pg-bin", metavar="FOLDER", help="where initdb, postgres, psql and pgbench are (default: the newest found)")
    add("--json", metavar="FILE", help="also write the figures of every run to this file")
    add("--markdown", metavar="FILE", help="also write the tables to this file, as README.md has them")
    options = parser.parse_args()
    if min(options.pairs, options.seconds, options.clients, options.threads, *options.memory_seconds) < 1:
        parser.error("--pairs, --seconds, --clients, --threads and --memory-seconds must be at least 1")
    if min(options.output_kb, options.raw_response_kb) < 0.1:
        parser.error("sizes must be at least 0.1 KB")
    # pgbench refuses more threads than clients.
    options.threads = min(options.threads, options.clients)
    options.memory_seconds.sort()
    options.command = command(parser, options)
    return options


def command(parser, options):
    """The command line without what is of no matter elsewhere: where files are, and what is so without being asked."""
    words = ["bench/compare.py"]
    for action in parser._actions:
        value = getattr(options, action.dest, action.default)
        if action.metavar not in ("FILE", "FOLDER") and value != action.default:
            values = value if isinstance(value, list) else [] if value is True else [value]
            words += [action.option_strings[-1], *map(str, values)]
    return shlex.join(words)


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


def row(*cells, widths):
    """Prints the cells, each of them in a column of its own."""
    print(("  " + "".join(f"{cell:<{width - 2}}  " for cell, width in zip(cells, widths))).rstrip(), flush=True)


def machine_line(machine):
    """The machine of `facts` in a line."""
    return (f"{machine['cores']} cores, {machine['cpu']}, {machine['memory_mb']:,} MB; {machine['kernel']}; load "
            f"average {machine['load_average'][0]:.1f}")


def set_out(options):
    """What every bench does before it measures: lets itself be ended in order, and finds the programs. Returns the
    folder of PostgreSQL's and load_test."""
    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, lambda number, _: sys.exit(128 + number))
    pg_bin = find_bin(options.pg_bin)
    binary = os.path.abspath(options.binary or build())
    if not os.access(binary, os.X_OK):
        raise BenchError(f"{binary} is not a program")
    return pg_bin, binary


class Table:
    """Printed row by row, and kept for --markdown."""

    made = []

    def __init__(self, title, *columns, widths=(28, 26, 26, 22)):
        self.title, self.columns, self.widths, self.rows, self.remark = title, columns, widths, [], ""
        self.made.append(self)
        print(f"\n{title}")
        row(*columns, widths=widths)

    def row(self, *cells):
        self.rows.append(cells)
        row(*cells, widths=self.widths)

    def remarks(self, text):
        self.remark = text
        print(f"  {text}", flush=True)

    def markdown(self):
        rows = ("| " + "| ".join(f"{cell.strip()} ".lstrip() for cell in [*row, *[""] * (len(self.columns) - len(row))])
                + "|" for row in (self.columns, *self.rows))
        sentences = [f"{text[0].upper()}{text[1:]}." for text in (self.title, self.remark) if text]
        head = next(rows)
        return "\n\n".join([sentences[0], "\n".join([head, "|---" * len(self.columns) + "|", *rows]),
                            *sentences[1:]]) + "\n"


def in_turns(options, title, runs):
    """Calls each of `runs` (name: function) once a round, in every other round from the last to the first, and returns
    the lists of what they said."""
    found = {name: [] for name in runs}
    for turn in range(options.pairs):
        for name in list(runs)[::-1 if turn % 2 else 1]:
            found[name].append(runs[name]())
            say(f"{title}, {turn + 1} of {options.pairs}, {name}: {found[name][-1]['requests_per_second']:,.0f}/s")
    return found


def each(runs, *names):
    """One figure of every run."""
    for name in names:
        runs = [run[name] for run in runs]
    return runs


def ratios(ours, theirs):
    """Those of each round, as text."""
    return spread([one / other for one, other in zip(ours, theirs)], ".2f")


def load(options, **changes):
    return Load(**{"seconds": options.seconds, "clients": options.clients, "threads": options.threads,
                   "output_kb": options.output_kb, "raw_response_kb": options.raw_response_kb, **changes})


def full_speed(options, clients, mode):
    title, pipeline, shape = MODES[mode]
    asked = load(options)
    runs = {"load_test": lambda: clients.load_test(asked, pipeline=pipeline),
            "pgbench": lambda: clients.pgbench(asked, shape)}
    if options.ceiling:
        runs["server"] = lambda: clients.ceiling(asked)
    found = in_turns(options, mode, runs)
    table = Table(title, "", *PROGRAMS, "load_test ÷ pgbench")
    for name, (label, form) in FIGURES.items():
        ours, theirs = (each(found[program], name) for program in PROGRAMS)
        table.row(label, spread(ours, form), spread(theirs, form), ratios(ours, theirs))
    if options.ceiling:
        alone = each(found["server"], "requests_per_second")
        table.row("of the server's ceiling",
                  *(ratios(each(found[program], "requests_per_second"), alone) for program in PROGRAMS))
        table.remarks(f"the server's ceiling: {spread(alone, ',.0f')} transactions/s in {options.clients} sessions of "
                      "a procedure that makes the same writes")
    return found


def half_of_full_speed(options, clients, measured):
    """Half of what load_test reaches sequentially, in whole requests a second."""
    runs = measured.get("sequential") or measured.get("joined")
    if runs is None:
        say(f"full speed, which is to be halved: {options.seconds} s")
        runs = {"load_test": [clients.load_test(load(options))]}
    return max(1, round(statistics.median(each(runs["load_test"], "requests_per_second")) / 2))


def lateness(options, clients, rate, what):
    asked = load(options, rate=rate, clients=8)
    found = in_turns(options, f"lateness at {rate}/s", {
        "load_test constant": lambda: clients.load_test(asked, arrival="constant"),
        "load_test poisson": lambda: clients.load_test(asked, arrival="poisson"),
        "pgbench": lambda: clients.pgbench(asked),
    })
    table = Table(f"lateness at {what} on 8 connections, ms: how long after it was due a request started", "", "p50",
                  "p99", "mean", "max", "requests", widths=(22, 22, 24, 22, 24, 8))
    kinds = {"lateness_ms": "  a worker was free", "wait_for_connection_ms": "  all were busy",
             "all_ms": "  all requests"}
    for program, label, lines in [
        ("load_test constant", "load_test, constant", kinds),
        ("load_test poisson", "load_test, poisson", kinds),
        ("pgbench", "pgbench -R (poisson)", {"schedule_lag_ms": kinds["all_ms"]}),
    ]:
        table.row(label)
        for kind, line in lines.items():
            cells = []
            for name in ("p50", "p99", "avg", "max"):
                values = [value for value in each(found[program], kind, name) if value is not None]
                cells.append(spread(values, ".3f") if values else "–")
            table.row(line, *cells, f"{statistics.mean(each(found[program], kind, 'count')):,.1f}")

    columns = {"load_test constant": "load_test, constant", "load_test poisson": "load_test, poisson",
               "pgbench": "pgbench -R (poisson)"}
    table = Table(f"the same runs at {rate:,}/s", "", *columns.values(), widths=(42, 26, 26, 26))
    for name, (label, form) in FIGURES.items():
        if name not in ("requests_per_second", "peak_rss_mb"):
            table.row(label, *(spread(each(found[program], name), form) for program in columns))
    for kind, label in [(("cpu_us_per_request",), "client CPU ÷ pgbench's"),
                        (("lateness_ms", "avg"), "mean where a worker was free ÷ pgbench's"),
                        (("all_ms", "avg"), "mean of all requests ÷ pgbench's")]:
        theirs = each(found["pgbench"], *(("schedule_lag_ms", "avg") if "avg" in kind else kind))
        cells = []
        for program in list(columns)[:2]:
            pairs = [pair for pair in zip(each(found[program], *kind), theirs) if None not in pair and pair[1] > 0]
            cells.append(ratios(*zip(*pairs)) if pairs else "–")
        table.row(label, *cells)
    return found


def large(options, clients):
    asked = load(options, clients=8, output_kb=1024, raw_response_kb=1024)
    ours = {"load_test, sequential": lambda: clients.load_test(asked),
            "load_test, pipeline": lambda: clients.load_test(asked, pipeline=True)}
    theirs = {f"pgbench, {shape}": lambda shape=shape: clients.pgbench(asked, shape)
              for shape in ("sequential", "joined", "pipeline")}
    copies = {"copying, unix socket": lambda: clients.copying(asked, "unix"),
              "copying, 127.0.0.1": lambda: clients.copying(asked, "tcp")}
    found = in_turns(options, "large", {**ours, **theirs, **copies})
    copied = each(found["copying, unix socket"], "cpu_us_per_request")
    table = Table("1 MB + 1 MB on 8 connections, and what copying as many bytes into a socket costs", "", "requests/s",
                  "CPU, µs a request", "÷ copying, unix", "switches a request", "peak RSS, MB",
                  widths=(23, 20, 24, 20, 22, 18))
    for program, runs in found.items():
        cpu = each(runs, "cpu_us_per_request")
        cells = ["", spread(cpu, ",.0f"), "", spread(each(runs, "context_switches_per_request"), ".1f")]
        if program not in copies:
            cells[0], cells[2] = spread(each(runs, "requests_per_second"), ",.1f"), ratios(cpu, copied)
            cells.append(spread(each(runs, "peak_rss_mb"), ",.1f"))
        table.row(program, *cells)
    best = [[max(rates) for rates in zip(*(each(found[program], "requests_per_second") for program in programs))]
            for programs in (ours, theirs)]
    table.remarks(f"requests/s of the better mode of load_test ÷ those of the best of pgbench: {ratios(*best)}")
    return found


def memory(options, clients):
    moments = options.memory_seconds
    asked = load(options, rate=60, clients=32, seconds=moments[-1] + 5, output_kb=1024, raw_response_kb=1024)
    found = {}
    table = Table("memory of the client at 32 connections, 1 MB + 1 MB, 60 requests/s asked for", "",
                  *(f"RSS at {moment} s, MB" for moment in moments), "peak, MB", "requests/s",
                  widths=(14, *[20] * len(moments), 14, 14))
    for name in options.memory_programs:
        say(f"memory, {name}: {asked.seconds} s")
        found[name] = getattr(clients, name)(asked, sample_at=moments)
        values = [*(found[name]["rss_mb_at"][moment] for moment in moments), found[name]["peak_rss_mb"],
                  found[name]["requests_per_second"]]
        table.row(name, *(f"{value:.1f}" for value in values))
    return found


def start(options, clients):
    asked = load(options, clients=8, seconds=1, output_kb=1024, raw_response_kb=1024)
    runs = {"load_test --no-reset": lambda: clients.started(clients.load_test(asked)),
            # In the middle, so that in every round there is a run before it, whose rows it empties.
            "load_test": lambda: clients.started(clients.load_test(asked, reset=True)),
            "pgbench": lambda: clients.started(clients.pgbench(asked))}
    found = in_turns(options, "start", runs)
    table = Table("from the start of the program, 8 connections, 1 MB + 1 MB, ms", "", "first request begins",
                  "first request is committed")
    for name, run in found.items():
        table.row(name, *(spread(each(run, figure), ",.1f") for figure in ("first_request_ms", "first_commit_ms")))
    return found


def ceiling(options, clients):
    found = in_turns(options, "ceiling", {"server": lambda: clients.ceiling(load(options))})
    table = Table("the server alone, sessions of a procedure that makes the same writes", "sessions", "transactions/s")
    table.row(str(options.clients), spread(each(found["server"], "requests_per_second"), ",.0f"))
    return found


def compare(options, binary, pg_bin, figures):
    """Adds to the figures whatever was asked for, each part when it is done."""
    with local_server(pg_bin) as server:
        clients = Clients(server, binary)
        speeds = figures["full_speed"] = {}
        for mode in options.modes:
            speeds[mode] = full_speed(options, clients, mode)
        if options.ceiling and not options.modes:
            figures["ceiling"] = ceiling(options, clients)
        if options.lateness:
            half = half_of_full_speed(options, clients, speeds)
            figures["lateness"] = []
            for rate, what in [(300, "300 requests/s"), (half, f"half of full speed, {half:,} requests/s,")]:
                figures["lateness"].append({"rate": rate, "runs": lateness(options, clients, rate, what)})
        if options.large:
            figures["large"] = large(options, clients)
        if options.memory:
            figures["memory"] = memory(options, clients)
    if options.start:
        # A server of its own, because keeping the times of all commits costs a little.
        with local_server(pg_bin, track_commit_timestamp="on") as server:
            figures["start"] = start(options, Clients(server, binary))


def main():
    options = arguments()
    pg_bin, binary = set_out(options)
    for path in filter(None, (options.json, options.markdown)):
        try:
            open(path, "a").close()
        except OSError as error:
            raise BenchError(f"{path} cannot be written: {error.strerror}") from None
    machine = facts(binary, pg_bin)
    figures = {"machine": machine, "options": {key: value for key, value in vars(options).items()
                                               if key not in ("json", "markdown")}}
    described = machine_line(machine)
    programs = f"{machine['load_test']}; {machine['postgres']}; {machine['pgbench']}"
    settings = "; ".join(f"{key} = {value}" for key, value in machine["settings"].items())
    way = (f"{options.pairs} runs of each in turns, {options.seconds} s each; {options.clients} connections, "
           f"{options.threads} client threads; output {options.output_kb:g} KB, raw_response "
           f"{options.raw_response_kb:g} KB; median (least–greatest)")
    print(f"{machine['date']}; {described}", programs, settings, way, sep="\n", flush=True)
    try:
        compare(options, binary, pg_bin, figures)
    finally:
        # What was found before something went wrong, too.
        if options.json:
            with open(options.json, "w") as file:
                json.dump(figures, file, indent=1)
                file.write("\n")
        if options.markdown:
            about = f"`{options.command}`; {described} before. {programs}; {settings}. {way[0].upper()}{way[1:]}."
            with open(options.markdown, "w") as file:
                file.write(textwrap.fill(about, 120, break_on_hyphens=False, break_long_words=False) + "\n\n")
                file.write("\n".join(table.markdown() for table in Table.made))


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(f"compare.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
