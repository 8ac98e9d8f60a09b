#!/usr/bin/env python3
"""How long `coordinator merge` takes for the results of many VMs, and how much memory. See README.md beside it."""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

from server import BenchError, find_bin, local_server

try:
    from hdrh.histogram import HdrHistogram
except ImportError:
    sys.exit("error: PyPI's hdrhistogram is missing; install it (pip install hdrhistogram), or run this with the Python "
             "of target/venv, which scripts/test.sh makes")

RANGE_US = 24 * 3600 * 1_000_000
# Different histograms; the documents take them in turns.
KINDS = 20
WINDOW_SECONDS = 60


def spread(seed, count, digits, median_us):
    """`count` values over three decades, log-normal and with chance's irregularities."""
    chance, histogram = random.Random(seed), HdrHistogram(1, RANGE_US, digits)
    low, high, sigma = median_us / 31.6, median_us * 31.6, math.log(31.6) / 3
    below = lambda us: 0.5 * (1 + math.erf(math.log(us / median_us) / sigma / math.sqrt(2)))
    value, left = max(1, int(low)), count
    while value < high and left > 0:
        # Bucket by bucket, so that a million values are some thousand calls.
        end = histogram.get_highest_equivalent_value(value) + 1
        expected = count * (below(end) - below(value))
        counted = min(left, max(0, round(chance.gauss(expected, math.sqrt(expected)))))
        if counted:
            histogram.record_value(value, counted)
            left -= counted
        value = end
    if left:
        histogram.record_value(median_us, left)
    return histogram


def summary(histogram):
    ms, count = (lambda value: value / 1000), histogram.get_total_count()
    least, most = histogram.get_min_value(), histogram.get_max_value()

    def at(per_mille):
        # The nearest rank; the library rounds to ranks itself, and a quarter less is safe from that.
        rank = -(-per_mille * count // 1000)
        return ms(min(max(histogram.get_value_at_percentile(100 * (rank - 0.25) / count), least), most))

    percentiles = {"p50": at(500), "p90": at(900), "p95": at(950), "p99": at(990), "p99_9": at(999)}
    figures = {"min": ms(least), "avg": ms(histogram.get_mean_value()), **percentiles, "max": ms(most)}
    return {"count": count, **figures, **{f"{name}_is_lower_bound": False for name in figures if name != "min"},
            **{f"{name}_is_max": False for name in percentiles}, "requests": count}


def real_document(load_test, pg_bin):
    """One that load_test itself wrote."""
    with local_server(pg_bin) as server:
        arguments = [load_test, "--rps", "50", "--duration", "2", "--workers", "4", "--json-output",
                     "--output-size-kb", "1", "--raw-response-size-kb", "1"]
        done = subprocess.run(arguments, env=server.env, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1):
            raise BenchError(f"load_test: {done.stderr.strip()}")
        return json.loads(done.stdout)


def kinds(template, requests):
    """Documents that differ in their histograms, each of `requests` requests that were all ok."""
    for kind in range(KINDS):
        document, seed = json.loads(json.dumps(template)), kind * 100
        waited = requests // 5
        figures = {"latency": ("latency_ms", spread(seed, requests, 3, 6_000)),
                   "service_time": ("service_time_ms", spread(seed + 1, requests, 3, 5_000)),
                   "lateness": ("lateness_ms", spread(seed + 2, requests - waited, 3, 100)),
                   "wait_for_connection": ("wait_for_connection_ms", spread(seed + 3, waited, 3, 2_000))}
        for name, (figure, histogram) in figures.items():
            document[figure] = summary(histogram)
            document["histograms"][name] = {"base64": histogram.encode().decode(), "past_range": 0}
        for number, phase in enumerate(document["phases_ms"]):
            histogram = spread(seed + 10 + number, requests, 2, 900)
            phase.update(summary(histogram))
            document["histograms"]["phases"][number] = {"base64": histogram.encode().decode(), "past_range": 0}
        document["accounting"].update(dict.fromkeys(document["accounting"], 0), scheduled=requests, ok=requests)
        rate = requests / WINDOW_SECONDS
        bins = [requests // WINDOW_SECONDS] * WINDOW_SECONDS
        bins[-1] += requests - sum(bins)
        document["throughput"].update(total_requests=requests, successful_writes=requests, failed_writes=0,
                                      actual_rps=rate, offered_rps=rate, target_achieved_pct=100.0, success_rate=100.0,
                                      completed_in_window=requests, timeline={"bin_seconds": 1, "completed": bins})
        document["run"].update(window_start_s=0.0, window_seconds=float(WINDOW_SECONDS), interrupted=False)
        document["config"].update(duration_seconds=float(WINDOW_SECONDS))
        generator = document["generator"]
        generator.update(cpu_us_per_request=generator["cpu_seconds"] * 1e6 / requests, stalls=[], stall_count=0,
                         stalled_seconds=0.0, stalled_requests=0)
        document.update(errors=[], warnings=[], advice=[], data_written_mb=requests * 4.5 / 1024)
        yield document, figures["latency"][1]


def write_documents(folder, template, options):
    """Returns the files, their size, and the latencies of all VMs as Python's library adds them."""
    made, latency, files = list(kinds(template, options.requests)), HdrHistogram(1, RANGE_US, 3), []
    for index in range(options.hosts):
        document, own_latency = made[index % KINDS]
        document["hostname"] = f"host-{index + 1}"
        document["run"]["share"] = {"index": index, "of": options.hosts}
        document["config"]["target_rps"] = float(options.requests // WINDOW_SECONDS * options.hosts)
        latency.add(own_latency)
        files.append(os.path.join(folder, f"r{index + 1}.json"))
        with open(files[-1], "w", encoding="utf-8") as file:
            json.dump(document, file, separators=(",", ":"))
    return files, sum(map(os.path.getsize, files)), latency


def measure(command, output):
    """Seconds on the clock, of CPU, and peak resident memory in MB, of one process from its start to its end."""
    with open(output, "wb") as stdout:
        begun = time.monotonic()
        child = subprocess.Popen(command, stdout=stdout, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.monotonic() - begun
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in (0, 1):
        raise BenchError(f"{' '.join(command[:3])} … ended with {child.returncode}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def check(path, latency, options):
    """What was merged is the sum, by another library's arithmetic."""
    with open(path, encoding="utf-8") as file:
        merged = json.load(file)
    encoded = HdrHistogram.decode(merged["histograms"]["latency"]["base64"])
    total = options.hosts * options.requests
    found = (merged["accounting"]["ok"], merged["latency_ms"]["count"], encoded.get_total_count(), merged["num_vms"])
    if found != (total, total, total, options.hosts):
        raise BenchError(f"merged counts are {found}, not {total:,} of {options.hosts}")
    for percentile in (50, 90, 99, 99.9):
        one, other = (histogram.get_value_at_percentile(percentile) for histogram in (encoded, latency))
        if one != other:
            raise BenchError(f"latency p{percentile} is {one} us, and {other} by hdrhistogram's addition")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--binary", default="target/release/coordinator", metavar="FILE", help="coordinator; load_test is beside it")
    add("--hosts", type=int, default=1000, metavar="N", help="results to merge")
    add("--requests", type=int, default=600_000, metavar="N", help="requests in each of them")
    add("--repetitions", type=int, default=5, metavar="N", help="how often each way is measured")
    add("--pg-bin", metavar="FOLDER", help="where PostgreSQL's programs are (default: the newest found)")
    options = parser.parse_args()
    if min(options.hosts, options.requests, options.repetitions) < 1:
        parser.error("--hosts, --requests and --repetitions must be at least 1")
    if options.requests % WINDOW_SECONDS or options.requests // WINDOW_SECONDS * options.hosts > 10_000_000:
        parser.error(f"--requests must be a multiple of {WINDOW_SECONDS}, and at most ten million a second of all hosts")
    coordinator = os.path.abspath(options.binary)
    load_test = os.path.join(os.path.dirname(coordinator), "load_test")
    for program in (coordinator, load_test):
        if not os.access(program, os.X_OK):
            raise BenchError(f"{program} is not there: cargo build --release, or give --binary")
    template = real_document(load_test, find_bin(options.pg_bin))
    with tempfile.TemporaryDirectory(prefix="merge-bench-") as folder:
        files, size, latency = write_documents(folder, template, options)
        print(f"{options.hosts:,} results of {options.requests:,} requests each, {size / options.hosts / 1024:.1f} KB a "
              f"result, {size / 2**20:.1f} MB in all; median (least–greatest) of {options.repetitions}")
        for name, more in (("report", []), ("--json-output", ["--json-output"])):
            output = os.path.join(folder, "output")
            runs = [measure([coordinator, "merge", *more, *files], output) for _ in range(options.repetitions)]
            texts = [f"{statistics.median(values):.{digits}f} {unit} ({min(values):.{digits}f}–{max(values):.{digits}f})"
                     for values, unit, digits in zip(zip(*runs), ("s", "s of CPU", "MB peak"), (2, 2, 0))]
            print(f"  {name:<14} {', '.join(texts)}")
        check(output, latency, options)


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(f"error: {error}")
