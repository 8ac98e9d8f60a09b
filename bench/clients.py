"""Runs load_test, pgbench and the procedure, each as a process of its own, and measures that process."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field

from server import HERE, TABLES, BenchError


@dataclass
class Process:
    """A process that has ended."""

    output: str
    # Seconds since 1970, just before it was started.
    began: float
    cpu_seconds: float
    # Voluntary and involuntary ones, of all its threads.
    context_switches: int
    involuntary_switches: int
    peak_rss_mb: float
    rss_mb_at: dict = field(default_factory=dict)


def measure(argv, env, exit_codes=(0,), sample_at=(), watch_memory=True, before=None):
    """Runs a program to its end. `sample_at` are the seconds at which its memory is noted. Without `watch_memory` it has
    the machine for itself meanwhile. `before` is called in the new process."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began, began_at = time.monotonic(), time.time()
        process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err, preexec_fn=before)
        peak, at, due = 0.0, {}, sorted(sample_at)
        try:
            if not watch_memory:
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
            while process.returncode is None:
                # Not ru_maxrss: it is never less than the memory of this interpreter, from which the process came.
                memory = memory_mb(process.pid)
                peak = max(peak, memory.get("VmHWM", 0.0))
                if due and time.monotonic() - began >= due[0] and "VmRSS" in memory:
                    at[due.pop(0)] = memory["VmRSS"]
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    process.returncode = os.waitstatus_to_exitcode(status)
                    break
                time.sleep(0.05)
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()
        out.seek(0)
        err.seek(0)
        if process.returncode not in exit_codes:
            raise BenchError(f"{os.path.basename(argv[0])} ended with exit code {process.returncode}:\n"
                             + err.read().decode(errors="replace")[-3000:])
        return Process(out.read().decode(errors="replace"), began_at, usage.ru_utime + usage.ru_stime,
                       usage.ru_nvcsw + usage.ru_nivcsw, usage.ru_nivcsw, peak, at)


def memory_mb(pid):
    try:
        with open(f"/proc/{pid}/status") as status:
            return {match[1]: int(match[2]) / 1024 for match in re.finditer(r"(?m)^(Vm\w+):\s+(\d+) kB", status.read())}
    except (FileNotFoundError, ProcessLookupError):
        return {}


@dataclass
class Load:
    """What both programs are asked for."""

    seconds: int
    clients: int
    threads: int
    output_kb: float
    raw_response_kb: float
    # Requests a second; None for as many as possible.
    rate: float | None = None

    def sizes(self):
        return {"input": 1536, "output": round(self.output_kb * 1024), "raw_request": 1024,
                "raw_response": round(self.raw_response_kb * 1024)}

    def bytes_at_most(self):
        """What a run may write: at full speed, more than the server manages on a few processors."""
        a_second, size = self.rate or 5_000, sum(self.sizes().values())
        return self.seconds * (a_second * size if self.rate else min(a_second * size, 250_000_000))


class Clients:
    """Runs one after the other, each on empty tables."""

    def __init__(self, server, load_test):
        self.server, self.load_test_path = server, load_test

    def prepare(self, load, empty=True):
        """Empties the tables, and stops where the run might fill the disk."""
        if empty:
            self.server.empty_tables()
        needed, free = load.bytes_at_most(), shutil.disk_usage(self.server.folder).free
        if free < needed:
            raise BenchError(f"a run may write {needed / 1e9:.1f} GB, and {os.path.dirname(self.server.folder)} has "
                             f"{free / 1e9:.1f} GB left; name a folder with more room in $TMPDIR")

    def load_test(self, load, pipeline=False, arrival=None, sample_at=(), reset=False):
        """With `reset` it finds the rows of the run before, and empties the tables itself."""
        argv = [self.load_test_path, "--json-output", *([] if reset else ["--no-reset"]),
                "--rps", "max" if load.rate is None else f"{load.rate:g}", "--duration", str(load.seconds),
                "--workers", str(load.clients), "--threads", str(load.threads)]
        for name, size in load.sizes().items():
            argv += [f"--{name.replace('_', '-')}-size-kb", repr(size / 1024)]
        argv += ["--pipeline"] if pipeline else []
        argv += ["--arrival", arrival] if arrival else []
        self.prepare(load, empty=not reset)
        # Exit code 1 is its verdict on the database, which is of no interest here.
        process = measure(argv, self.server.env, exit_codes=(0, 1), sample_at=sample_at)
        result = json.loads(process.output)
        if result["throughput"]["failed_writes"] or result["accounting"]["unfinished"]:
            raise BenchError(f"load_test had failures: {result['errors']} {result['accounting']}")
        throughput = result["throughput"]
        run = self.checked(load, process, throughput["successful_writes"], throughput["actual_rps"])
        late = {kind: {name: result[kind][name] for name in ("count", "p50", "p99", "avg", "max")}
                for kind in ("lateness_ms", "wait_for_connection_ms")}
        return {**run, "own_cpu_us_per_request": result["generator"]["cpu_us_per_request"], **late,
                "all_ms": of_both(*late.values())}

    def pgbench(self, load, shape="sequential", sample_at=()):
        documents = self.server.set_documents(load.sizes())
        self.prepare(load)
        with tempfile.TemporaryDirectory() as folder:
            script = os.path.join(folder, "request.sql")
            with open(script, "w") as file:
                file.write(pgbench_script(shape))
            argv = [self.server.program("pgbench"), "-n", "-M", "prepared", "-f", script, "-c", str(load.clients),
                    "-j", str(load.threads), "-T", str(load.seconds), "-D", f"documents={documents}",
                    "-D", f"tick={10**15}"]
            if load.rate is not None:
                argv += ["-R", f"{load.rate:g}", "--log", "--log-prefix", os.path.join(folder, "log")]
            process = measure(argv, self.server.env, sample_at=sample_at)
            lags = sorted(schedule_lags(folder))

        def number(pattern):
            match = re.search(pattern, process.output)
            return float(match[1]) if match else None

        if number(r"number of failed transactions: (\d+)"):
            raise BenchError("pgbench had failures:\n" + process.output)
        done = number(r"actually processed: (\d+)")
        run = self.checked(load, process, round(done), number(r"tps = ([\d.]+)"))
        if load.rate is not None:
            run["schedule_lag_ms"] = {
                "count": len(lags), "p50": percentile(lags, 50), "p99": percentile(lags, 99),
                "avg": number(r"schedule lag: avg ([\d.]+)"), "max": number(r"\(max ([\d.]+)\) ms")}
        return run

    def ceiling(self, load):
        """Transactions a second of sessions that stay within the server."""
        self.server.set_documents(load.sizes())
        self.prepare(load)
        argv = [self.server.program("psql"), "-XqAt", "-c", f"CALL bench_ceiling({load.seconds}, 0)"]
        sessions = []
        try:
            for _ in range(load.clients):
                sessions.append(subprocess.Popen(argv, env=self.server.env, stdout=subprocess.PIPE, text=True))
            done = sum(int(session.communicate()[0] or 0) for session in sessions)
        finally:
            for session in sessions:
                if session.poll() is None:
                    session.kill()
                    session.wait()
        self.check_rows(load, done)
        return {"requests": done, "requests_per_second": done / load.seconds}

    def copying(self, load, kind, requests=1000):
        """What the bytes of a request cost a process that only hands them to a socket: `kind` is unix or tcp. To the
        documents come 2 KB for everything else in a request."""
        process = measure([sys.executable, os.path.join(HERE, "loopback.py"), kind,
                           str(sum(load.sizes().values()) + 2048), str(requests)], self.server.env)
        result = json.loads(process.output)
        return {"requests": requests, "requests_per_second": requests / result["seconds"],
                "cpu_us_per_request": result["cpu_seconds"] * 1e6 / requests,
                "context_switches_per_request": result["context_switches"] / requests}

    def started(self, run):
        """The run with the milliseconds from its start to its first request and to its first commit, by the server's
        clock, which is this machine's."""
        first, committed = self.server.first_times()
        return {**run, "first_request_ms": (first - run["began"]) * 1000,
                "first_commit_ms": (committed - run["began"]) * 1000}

    def checked(self, load, process, requests, rate):
        return {"requests": requests, "requests_per_second": rate, "began": process.began,
                "cpu_us_per_request": process.cpu_seconds * 1e6 / max(requests, 1),
                "context_switches_per_request": process.context_switches / max(requests, 1),
                "peak_rss_mb": process.peak_rss_mb, "rss_mb_at": process.rss_mb_at,
                "rows": self.check_rows(load, requests)}

    def check_rows(self, load, requests):
        """Figures of a run that did not write what it was asked to write would mean nothing."""
        rows, sizes = self.server.rows(), load.sizes()
        # Ten rows of resource_bucket take all the writes, and their tickets tell how many.
        wanted = {**dict.fromkeys(TABLES, requests), "resource_bucket": rows["resource_bucket"],
                  "bucket_writes": requests, "output_low": sizes["output"], "output_high": sizes["output"],
                  "response_low": sizes["raw_response"], "response_high": sizes["raw_response"]}
        wrong = [f"{name} is {rows[name]}, not {value}" for name, value in wanted.items() if rows[name] != value]
        if wrong or not requests:
            raise BenchError("the rows are not those of the run: " + ("; ".join(wrong) or "there are none"))
        return rows


def pgbench_script(shape):
    """pgbench.sql in one of its shapes: sequential, joined or pipeline."""
    with open(os.path.join(HERE, "pgbench.sql")) as file:
        lines = [line.removeprefix(f"--{shape}:") for line in file]
    return "".join(line for line in lines if not line.startswith("--"))


def of_both(*parts):
    """Count, mean and maximum of what was counted in several parts. Percentiles cannot be put together so."""
    parts = [part for part in parts if part["count"]]
    count = sum(part["count"] for part in parts)
    return {"count": count, "p50": None, "p99": None,
            "avg": sum(part["avg"] * part["count"] for part in parts) / count if parts else None,
            "max": max((part["max"] for part in parts), default=None)}


def schedule_lags(folder):
    """Milliseconds, from pgbench's log: client, transaction, time, script, epoch, microseconds, schedule lag."""
    for name in os.listdir(folder):
        if name.startswith("log."):
            with open(os.path.join(folder, name)) as log:
                for line in log:
                    yield int(line.split()[6]) / 1000


def percentile(ordered, percent):
    """The least value that is not below this share of all of them."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else None
