#!/usr/bin/env python3
"""What the server monitor costs: CPU of its session, and the rate with and without it, in turns."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from server import BenchError, find_bin, local_server

MONITOR = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE '% monitor'"


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return sum(int(field) for field in fields[11:13]) / os.sysconf("SC_CLK_TCK")


def command(options, seconds, *more):
    size = str(options.kb)
    return [os.path.abspath(options.binary), "--rps", "max", "--workers", str(options.workers), "--json-output", "-q",
            "--duration", str(seconds), "--output-size-kb", size, "--raw-response-size-kb", size, *more]


def rate(server, options, *more):
    server.empty_tables()
    done = subprocess.run(command(options, options.seconds, *more), env=server.env, capture_output=True, text=True,
                          check=False)
    if not done.stdout:
        raise BenchError(done.stderr)
    return json.loads(done.stdout)["throughput"]["actual_rps"]


def session_cpu(server, options):
    """CPU of the monitor's session in percent of one core, over ten seconds of full load."""
    run = subprocess.Popen(command(options, 14), env=server.env, stdout=subprocess.DEVNULL)
    try:
        time.sleep(2)
        ((pid,),) = server.sql(MONITOR)
        before, begun = cpu_seconds(pid), time.monotonic()
        time.sleep(10)
        return (cpu_seconds(pid) - before) / (time.monotonic() - begun) * 100
    finally:
        run.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", default="target/release/load_test", help="load_test [default: %(default)s]")
    parser.add_argument("--rounds", type=int, default=10, help="pairs [default: %(default)s]")
    parser.add_argument("--seconds", type=int, default=5, help="length of a run [default: %(default)s]")
    parser.add_argument("--workers", type=int, default=16, help="[default: %(default)s]")
    parser.add_argument("--kb", type=int, default=10, help="size of both documents [default: %(default)s]")
    parser.add_argument("--pg-bin", help="folder of PostgreSQL's programs")
    options = parser.parse_args()
    with local_server(find_bin(options.pg_bin)) as server:
        print(f"CPU of the monitor's session: {session_cpu(server, options):.2f} % of one core")
        ratios = []
        for number in range(options.rounds):
            # Whichever comes first has an advantage or not: they take turns in that, too.
            ways = [(), ("--no-server-stats",)]
            rates = {way: rate(server, options, *way) for way in (ways if number % 2 else ways[::-1])}
            ratios.append(rates[()] / rates[ways[1]])
            print(f"with {rates[()]:,.0f}/s, without {rates[ways[1]]:,.0f}/s, ratio {ratios[-1]:.3f}")
        print(f"ratio: median {statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})")


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(f"server_stats.py: {error}")
