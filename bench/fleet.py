#!/usr/bin/env python3
"""What the coordinator itself costs, and how closely its VMs start together: hosts on loopback behind one sshd.

See README.md beside it; it measures and never judges.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time

from compare import ROOT, first_line, row, say, spread
from server import BenchError, find_bin, local_server
from sshd import local_sshd

# Of a run: (label, form)
FIGURES = {
    "start_skew_ms": ("start skew, ms: first to last host", ".2f"),
    "worst_start_ms": ("start against T0, ms: worst host", ".2f"),
    "before_s": ("before T0, s", ".2f"),
    "after_s": ("after the window, s", ".2f"),
    "overhead_s": ("wall time beyond the duration, s", ".2f"),
    "own_cpu_s": ("CPU of the coordinator, s", ".2f"),
    "cpu_s": ("CPU with its ssh processes, s", ".2f"),
    "peak_rss_mb": ("peak RSS of the coordinator, MB", ".1f"),
    "left": ("processes and connections left", ".0f"),
}
# Marks what the coordinator starts.
MARK = "POSTGRES_LOAD_TEST_BENCH"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--hosts", type=int, nargs="+", default=[3, 8, 64], metavar="N", help="how many hosts")
    add("--rounds", type=int, default=5, metavar="N", help="runs with each number of hosts, in turns")
    add("--duration", type=int, default=10, metavar="S", help="length of the measured window")
    add("--rps", type=float, default=5, metavar="RATE", help="requests/s of each host")
    add("--workers", type=int, default=1, metavar="N", help="connections of each host")
    add("--binary-dir", metavar="FOLDER", default=os.path.join(ROOT, "target", "release"),
        help="where coordinator and load_test are")
    add("--pg-bin", metavar="FOLDER", help="where initdb, postgres, psql and pgbench are (default: the newest found)")
    add("--json", metavar="FILE", help="also write the figures of every run to this file")
    options = parser.parse_args()
    if min(*options.hosts, options.rounds, options.duration, options.workers) < 1 or options.rps <= 0:
        parser.error("all numbers must be positive")
    if max(options.hosts) > 250:
        parser.error("--hosts must be at most 250")
    return options


class Hosts:
    """Runs the coordinator on some of the addresses."""

    def __init__(self, options, sshd, server):
        self.options, self.sshd, self.server = options, sshd, server
        self.env = {**server.env, MARK: sshd.folder}

    def command(self, hosts, *more):
        options = self.options
        return [os.path.join(options.binary_dir, "coordinator"), "--vms", ",".join(self.sshd.addresses[:hosts]),
                "--ssh-config", self.sshd.config, "--output-size-kb", "1", "--raw-response-size-kb", "1",
                "--rps", str(options.rps), "--workers", str(options.workers), *more]

    def set_up(self):
        """Tables, and the program, which all the addresses share."""
        done = subprocess.run(self.command(1, "--setup", "unlogged", "--duration", "0"), env=self.env,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise BenchError("coordinator --setup: " + done.stderr.strip())

    def run(self, hosts):
        options = self.options
        # Files: a pipe that nobody reads would stop it.
        out, err = (os.path.join(self.sshd.folder, name) for name in ("out", "err"))
        with open(out, "wb") as stdout, open(err, "wb") as stderr:
            begun = time.time()
            process = subprocess.Popen(self.command(hosts, "--duration", str(options.duration), "--json-output"),
                                       env=self.env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
            try:
                own_cpu, peak_kb, status, usage = watch(process)
            except BaseException:
                # It ends what it has begun on the hosts.
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(30)
                process.kill()
                raise
            ended = time.time()
        with open(out) as file, open(err, errors="replace") as errors:
            text, complaint = file.read(), errors.read()
        try:
            result = json.loads(text)
        except ValueError:
            raise BenchError(f"coordinator ended with {status}:\n{complaint[-3000:]}") from None
        scheduled = round(options.rps * hosts * options.duration)
        if not result["success"] or abs(result["accounting"]["scheduled"] - scheduled) > 1:
            raise BenchError(f"not all of {hosts} hosts ran: {result['reason']}")
        t0 = int(result["run"]["started_unix_ns"]) / 1e9
        return {
            "start_skew_ms": result["start_skew_ms"],
            "worst_start_ms": max((vm["start_skew_ms"] for vm in result["per_vm_results"]), key=abs),
            "before_s": t0 - begun,
            "after_s": ended - t0 - options.duration,
            "overhead_s": ended - begun - options.duration,
            "own_cpu_s": own_cpu,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "peak_rss_mb": peak_kb / 1024,
            "left": len(self.left()),
            "status": result["status"],
        }

    def left(self):
        """What is there although the coordinator has ended, and still is a second later."""
        deadline = time.monotonic() + 1
        while True:
            found = [name for pid, name in processes() if pid != self.sshd.process.pid and self.belongs(pid)]
            found += self.server.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'postgres_load_test' "
                                     "OR application_name LIKE 'load_test %'")
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.05)

    def belongs(self, pid):
        """Sessions of the sshd, what runs in them, and what the coordinator started."""
        with contextlib.suppress(OSError, IndexError):
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if self.sshd.folder.encode() in file.read():
                    return True
            with open(f"/proc/{pid}/environ", "rb") as file:
                if f"{MARK}={self.sshd.folder}".encode() in file.read().split(b"\0"):
                    return True
            with open(f"/proc/{pid}/stat") as file:
                return int(file.read().rsplit(")", 1)[1].split()[1]) == self.sshd.process.pid
        return False


def processes():
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                with open(f"/proc/{name}/comm") as file:
                    yield int(name), file.read().strip()


def watch(process):
    """Waits for it. Its own CPU seconds and peak RSS, looked up 20 times a second; its exit code; the kernel's account,
    which has the children that it waited for in it, and in its peak RSS this script."""
    own_cpu, peak_kb = 0, 0
    while True:
        with contextlib.suppress(OSError, StopIteration):
            with open(f"/proc/{process.pid}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            own_cpu = max(own_cpu, sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK"))
            with open(f"/proc/{process.pid}/status") as file:
                peak_kb = max(peak_kb, int(next(line for line in file if line.startswith("VmHWM")).split()[1]))
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return own_cpu, peak_kb, process.returncode, usage
        time.sleep(0.05)


def main():
    options = arguments()
    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, lambda number, _: sys.exit(128 + number))
    pg_bin = find_bin(options.pg_bin)
    options.binary_dir = os.path.abspath(options.binary_dir)
    for name in ("coordinator", "load_test"):
        if not os.access(os.path.join(options.binary_dir, name), os.X_OK):
            raise BenchError(f"no {name} in {options.binary_dir}: cargo build --release, or give --binary-dir")
    most = max(options.hosts)
    print(f"{first_line(os.path.join(options.binary_dir, 'coordinator'), '--version')}; "
          f"{len(os.sched_getaffinity(0))} cores; load average {os.getloadavg()[0]:.1f}; {options.rounds} runs of "
          f"{options.duration} s each; {options.rps:g} requests/s and {options.workers} workers a host; median "
          f"(least–greatest)", flush=True)
    found = {hosts: [] for hosts in options.hosts}
    with local_server(pg_bin, max_connections=most * options.workers + 50) as server, \
            local_sshd([f"127.0.1.{number}" for number in range(1, most + 1)]) as sshd:
        fleet = Hosts(options, sshd, server)
        fleet.set_up()
        for number in range(options.rounds):
            for hosts, runs in found.items():
                runs.append(fleet.run(hosts))
                say(f"{hosts} hosts, {number + 1} of {options.rounds}: start skew {runs[-1]['start_skew_ms']:.2f} ms, "
                    f"{runs[-1]['overhead_s']:.1f} s beyond the duration, {runs[-1]['left']} left, {runs[-1]['status']}")
    widths = (38, *(26 for _ in found))
    row("", *(f"{hosts} hosts" for hosts in found), widths=widths)
    for name, (label, form) in FIGURES.items():
        row(label, *(spread([run[name] for run in runs], form) for runs in found.values()), widths=widths)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"options": {key: value for key, value in vars(options).items() if key != "json"},
                       "runs": found}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(f"fleet.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
