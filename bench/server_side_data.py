#!/usr/bin/env python3
"""What making a document in SQL costs the server: drawn from a pool, or generated.

Times each way inside the server (one session, no client in the loop), in turns, and prints medians. Then it prints
the server's own CPU time per request with load_test's two modes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from server import BenchError, find_bin, local_server

WAYS = {
    "pool, sliced (what load_test does)":
        "convert_from(substr(body, 1 + (random() * 1000000)::int, {size}), 'UTF8') FROM pool",
    "generated: SHA-512 as base64":
        "substr(string_agg(replace(encode(sha512(int8send(i + {salt})), 'base64'), E'\\n', ''), ''), 1, {size}) "
        "FROM generate_series(1, {size} / 86 + 1) i",
    "generated: md5 as hex":
        "substr(string_agg(md5((i + {salt})::text), ''), 1, {size}) FROM generate_series(1, {size} / 32 + 1) i",
}


def milliseconds(server, way, size, repeat):
    """One document, on average over `repeat`, timed by the server's clock."""
    query = WAYS[way].format(size=size, salt="(extract(epoch from clock_timestamp()) * 1000000)::bigint")
    text = f"""DO $$ DECLARE t timestamptz := clock_timestamp(); n int := 0;
        BEGIN FOR round IN 1..{repeat} LOOP n := n + length((SELECT x FROM (SELECT {query.replace(' FROM ', ' AS x FROM ', 1)}) s));
        END LOOP; RAISE NOTICE '%', extract(epoch from clock_timestamp() - t) * 1000 / {repeat}; END $$"""
    output = subprocess.run([server.program("psql"), "-Xq", "-v", "ON_ERROR_STOP=1", "-c", text], env=server.env,
                            capture_output=True, text=True, check=False)
    if output.returncode:
        raise BenchError(output.stderr)
    return float(output.stderr.split()[-1])


def stored(server, way, size):
    """How many bytes a document takes up in a table."""
    query = WAYS[way].format(size=size, salt="1").replace(" FROM ", " AS x FROM ", 1)
    server.sql(f"DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT {query}")
    return int(server.sql("SELECT pg_column_size(x) FROM kept")[0][0])


def server_cpu_seconds(server):
    """User and system time of the server and of all backends, which must have ended to be counted."""
    while server.sql("SELECT 1 FROM pg_stat_activity WHERE application_name = 'postgres_load_test'"):
        time.sleep(0.1)
    time.sleep(0.3)
    with open(f"/proc/{server.process.pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def load(server, load_test, kb, more, seconds):
    """CPU milliseconds of the server per request, at full speed."""
    before = server_cpu_seconds(server)
    arguments = [load_test, "--rps", "max", "--workers", "4", "--duration", str(seconds), "--json-output",
                 "--output-size-kb", str(kb), "--raw-response-size-kb", str(kb), *more]
    output = subprocess.run(arguments, env=server.env, capture_output=True, text=True, check=False)
    result = json.loads(output.stdout)
    cpu = server_cpu_seconds(server) - before
    return cpu * 1000 / result["accounting"]["ok"], result["throughput"]["actual_rps"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default="target/release/load_test", help="load_test [default: %(default)s]")
    parser.add_argument("--rounds", type=int, default=5, help="turns [default: %(default)s]")
    parser.add_argument("--seconds", type=int, default=5, help="length of a load run [default: %(default)s]")
    parser.add_argument("--pg-bin", help="folder of PostgreSQL's programs")
    options = parser.parse_args()
    load_test = os.path.abspath(options.binary)
    with local_server(find_bin(options.pg_bin)) as server:
        server.sql("CREATE TABLE pool (body bytea); ALTER TABLE pool ALTER body SET STORAGE EXTERNAL; "
                   "INSERT INTO pool SELECT convert_to(string_agg(replace(encode(sha512(int8send(i)), 'base64'), "
                   "E'\\n', ''), ''), 'UTF8') FROM generate_series(1, 40000) i")
        print("making one document, ms of one backend's time: median (least–greatest); bytes stored")
        for kb, repeat in ((10, 200), (1024, 5)):
            times = {way: [] for way in WAYS}
            for _ in range(options.rounds):
                for way in WAYS:
                    times[way].append(milliseconds(server, way, kb * 1024, repeat))
            for way, found in times.items():
                print(f"  {kb:>5} KB  {way:<36} {statistics.median(found):8.3f} ({min(found):.3f}–{max(found):.3f})"
                      f"  {stored(server, way, kb * 1024):>9,}")
        server.sql("DROP TABLE pool, kept")
        print("\nload_test --rps max, 4 workers: the server's CPU ms a request, and requests/s")
        for kb in (10, 1024):
            found = {"sent by the client": [], "--server-side-data": []}
            for _ in range(options.rounds):
                found["sent by the client"].append(load(server, load_test, kb, [], options.seconds))
                found["--server-side-data"].append(
                    load(server, load_test, kb, ["--server-side-data"], options.seconds))
            for way, runs in found.items():
                cpu, rate = ([run[at] for run in runs] for at in (0, 1))
                print(f"  {kb:>5} KB  {way:<20} {statistics.median(cpu):8.3f} ({min(cpu):.3f}–{max(cpu):.3f})"
                      f"  {statistics.median(rate):9,.1f}/s ({min(rate):,.1f}–{max(rate):,.1f})")


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(f"error: {error}")
