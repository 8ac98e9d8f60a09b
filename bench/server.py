"""One local PostgreSQL in a folder of its own: a unix socket, no network, gone at the end."""

import contextlib
import ctypes
import glob
import os
import pwd
import random
import shutil
import signal
import string
import subprocess
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SETTINGS = {"synchronous_commit": "off", "shared_buffers": "256MB", "max_wal_size": "2GB"}
# A backend that has once freed a large block gets memory more cheaply from then on (glibc's mallopt(3), M_MMAP_THRESHOLD).
# pgbench's do so when they fetch documents, load_test's never: 1,500 page faults a request against 770 with 1 MB
# documents, for reasons that are not the client's. So all of them get it from the start.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}
TABLES = ["chat_inference", "model_inference", "resource_bucket", "variant_by_episode"]


class BenchError(Exception):
    """Something that the reader has to put right."""


def find_bin(given):
    """The folder with initdb, postgres, psql and pgbench."""
    on_path = shutil.which("pgbench")
    # Debian keeps the servers' programs off the PATH, and wrappers on it, which run whatever version they choose.
    installed = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: float(path.split("/")[4]))
    candidates = [given] if given else [*installed[::-1], on_path and os.path.dirname(on_path)]
    needed = ("initdb", "postgres", "psql", "pgbench")
    for folder in filter(None, candidates):
        if all(os.access(os.path.join(folder, name), os.X_OK) for name in needed):
            return folder
    raise BenchError("no folder with initdb, postgres, psql and pgbench: install PostgreSQL, or give --pg-bin")


class Server:
    """A running server. `env` makes libpq programs and load_test connect to it."""

    def __init__(self, pg_bin, folder, account, settings):
        self.pg_bin, self.folder, self.account = pg_bin, folder, account
        self.settings = {**SETTINGS, **settings}
        # Settings of the caller's own databases must not reach this one.
        self.env = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        self.env.update(PGHOST=folder, PGUSER="postgres", PGDATABASE="bench", LC_ALL="C",
                        POSTGRES_URL=f"host='{folder}' user=postgres dbname=bench")
        self.process = None
        self.document_sizes = None
        self.library = None

    def program(self, name):
        return os.path.join(self.pg_bin, name)

    def owner(self):
        """What lets a process be the account's own."""
        return {} if self.account is None else dict(
            user=self.account.pw_uid, group=self.account.pw_gid, extra_groups=[], cwd=self.folder)

    def preload(self, source):
        """Compiles a library that the server starts with."""
        library = os.path.join(self.folder, "preload.so")
        try:
            subprocess.run(["cc", "-x", "c", "-O1", "-shared", "-fPIC", "-o", library, "-", "-ldl"], input=source, text=True,
                           check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise BenchError(f"a C compiler is needed: {error}") from None
        os.chmod(library, 0o755)
        self.library = library

    def start(self):
        """Makes its files where there are none, and starts it."""
        data, log, owner = os.path.join(self.folder, "data"), os.path.join(self.folder, "server.log"), self.owner()
        with open(log, "ab") as output:
            # Whoever reaches the socket is trusted; only the owner of the folder (and root) can.
            made = os.path.exists(data) or subprocess.run(
                [self.program("initdb"), "-D", data, "-U", "postgres", "-A", "trust", "--no-locale", "-E", "UTF8"],
                stdout=output, stderr=output, env=self.env, **owner).returncode == 0
            if made:
                settings = {**self.settings, "listen_addresses": "", "unix_socket_directories": self.folder}
                self.process = subprocess.Popen(
                    [self.program("postgres"), "-D", data, *(f"--{key}={value}" for key, value in settings.items())],
                    stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**self.env, **ALLOCATOR, **({"LD_PRELOAD": self.library} if self.library else {})},
                    # In a session of its own, so that Ctrl-C reaches this script first; and it ends with this script.
                    start_new_session=True, preexec_fn=end_with_parent, **owner)
        deadline = time.monotonic() + 60
        while self.process and self.process.poll() is None and time.monotonic() < deadline:
            if subprocess.run([self.program("pg_isready"), "-q", "-d", "postgres"], env=self.env).returncode == 0:
                return
            time.sleep(0.1)
        with open(log, errors="replace") as output:
            raise BenchError("the server did not start:\n" + output.read()[-3000:])

    def stop(self):
        # SIGINT: disconnect all and shut down; SIGQUIT: at once.
        for sign in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if self.process is None or self.process.poll() is not None:
                return
            self.process.send_signal(sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)

    def sql(self, text, database="bench"):
        """Runs statements and returns the rows as lists of strings."""
        done = subprocess.run([self.program("psql"), "-XqAt", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-d", database],
                              input=text, env=self.env, capture_output=True, text=True)
        if done.returncode != 0:
            raise BenchError(f"psql: {done.stderr.strip()}")
        return [line.split("\t") for line in done.stdout.splitlines()]

    def create_tables(self):
        self.sql("CREATE DATABASE bench", database="postgres")
        columns = ("input", "output", "raw_request", "raw_response", "inference_params", "tags", "input_messages",
                   "model_output")
        self.sql("CREATE TABLE bench_documents (number integer PRIMARY KEY, "
                 + ", ".join(f"{name} text NOT NULL" for name in columns) + ")")
        for path in (os.path.join(HERE, os.pardir, "schema_unlogged.sql"), os.path.join(HERE, "ceiling.sql")):
            with open(path) as text:
                self.sql(text.read())

    def set_documents(self, sizes):
        """What pgbench and the procedure write: documents of load_test's form and of exactly these bytes. Returns how
        many of each there are."""
        # Many, but not more than some tens of megabytes.
        count = max(10, min(200, 40_000_000 // sum(sizes.values())))
        if sizes == self.document_sizes:
            return count
        chance = random.Random(1)
        head, tail = '{"messages":[{"role":"user","content":"', '"}]}'
        text = "".join(chance.choices(string.ascii_letters + string.digits + " ", k=max(sizes.values()) + (1 << 20)))

        def document(size):
            length = size - len(head) - len(tail)
            at = chance.randrange(len(text) - length)
            return head + text[at:at + length] + tail

        constants = ['{"temperature":0.57,"max_tokens":2048}',
                     '{"env":"production","user_id":"0192f0c1-8a3b-7c5d-9e1f-2a4b6c8d0e1f",'
                     '"request_id":"0192f0c1-8a3b-7d6e-8f20-3b5c7d9e1f20"}',
                     '[{"role":"user","content":"test message"}]', '{"content":"model response content"}']
        rows = ("\t".join([str(number), *map(document, sizes.values()), *constants]) for number in range(1, count + 1))
        self.sql("TRUNCATE bench_documents;\nCOPY bench_documents FROM STDIN;\n" + "\n".join(rows) + "\n\\.\n"
                 "ANALYZE bench_documents")
        self.document_sizes = sizes
        return count

    def empty_tables(self):
        self.sql("SELECT reset_loadtest_tables(); CHECKPOINT")

    def first_times(self):
        """When the first request began and when the first was committed, in seconds since 1970. Needs
        track_commit_timestamp."""
        ((begun, committed),) = self.sql("""
            SELECT extract(epoch FROM min(timestamp)), extract(epoch FROM min(pg_xact_commit_timestamp(xmin)))
            FROM chat_inference""")
        return float(begun), float(committed)

    def rows(self):
        """What the last run left: rows a table, least and greatest sizes as sent, mean sizes as stored."""
        # Printed jsonb has a space behind each colon and comma; without them it has the size that was sent. All rows of
        # a run are made alike, so a few hundred are enough for what has to be read back whole.
        (found,) = self.sql("""
            SELECT (SELECT count(*) FROM chat_inference), (SELECT count(*) FROM model_inference),
                   (SELECT count(*) FROM resource_bucket), (SELECT count(*) FROM variant_by_episode),
                   (SELECT coalesce(-sum(tickets - 1001), 0) FROM resource_bucket),
                   output_low, output_high, response_low, response_high, output_stored, response_stored
            FROM (SELECT min(bytes) AS output_low, max(bytes) AS output_high
                  FROM (SELECT octet_length(output::text) - 4 AS bytes FROM chat_inference LIMIT 200) AS sample) AS a,
                 (SELECT avg(pg_column_size(output)) AS output_stored FROM chat_inference) AS b,
                 (SELECT min(octet_length(raw_response)) AS response_low,
                         max(octet_length(raw_response)) AS response_high,
                         avg(pg_column_size(raw_response)) AS response_stored FROM model_inference) AS c""")
        names = [*TABLES, "bucket_writes", "output_low", "output_high", "response_low", "response_high",
                 "output_stored", "response_stored"]
        return {name: round(float(value or 0)) for name, value in zip(names, found)}


def end_with_parent():
    """Even kill -9 of this script must not leave the server running: Linux sends it SIGINT then."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)


@contextlib.contextmanager
def local_server(pg_bin, preload=None, **settings):
    """Starts a server with empty tables, and further settings, and removes every trace of it afterwards. `preload` is C
    that stands before the system's own functions in it."""
    account = None
    if os.geteuid() == 0:
        try:
            # PostgreSQL refuses to run as root.
            account = pwd.getpwnam("postgres")
        except KeyError:
            raise BenchError("run as another user than root, or create the user postgres") from None
    folder = tempfile.mkdtemp(prefix="pg-bench-")
    server = Server(pg_bin, folder, account, settings)
    try:
        if account is not None:
            os.chown(folder, account.pw_uid, account.pw_gid)
        if preload is not None:
            server.preload(preload)
        server.start()
        server.create_tables()
        yield server
    finally:
        # A second Ctrl-C must not cut this short.
        handlers = {sign: signal.signal(sign, signal.SIG_IGN)
                    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
        for sign, handler in handlers.items():
            signal.signal(sign, handler)
