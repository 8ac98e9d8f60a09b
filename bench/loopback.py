#!/usr/bin/env python3
"""What it costs a client to hand a request's bytes to the kernel once: writes them into a loopback socket, from one
buffer, while another process reads them in pieces of 8 KB, as a PostgreSQL backend does. Prints JSON."""

import argparse
import json
import os
import resource
import socket
import sys
import time


def connection(kind):
    """The two ends of one."""
    if kind == "unix":
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one, other


def read_to_end(end):
    total, piece = 0, bytearray(8192)
    while got := end.recv_into(piece):
        total += got
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("unix", "tcp"), help="kind of socket; tcp is 127.0.0.1")
    parser.add_argument("bytes", type=int, help="size of a request")
    parser.add_argument("requests", type=int, help="how many are written")
    options = parser.parse_args()
    ours, theirs = connection(options.kind)
    reader = os.fork()
    if reader == 0:
        ours.close()
        try:
            os._exit(0 if read_to_end(theirs) == options.bytes * options.requests else 1)
        except BaseException:
            os._exit(1)
    theirs.close()
    # Random, because a buffer of zeros may be a single page of memory.
    request = memoryview(os.urandom(options.bytes))
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(options.requests):
        ours.sendall(request)
    after, seconds = resource.getrusage(resource.RUSAGE_SELF), time.monotonic() - begun
    ours.close()
    if os.waitpid(reader, 0)[1] != 0:
        sys.exit("loopback.py: not all bytes were read")
    cpu, switches = (sum(getattr(after, name) - getattr(before, name) for name in names)
                     for names in (("ru_utime", "ru_stime"), ("ru_nvcsw", "ru_nivcsw")))
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "context_switches": switches}))


if __name__ == "__main__":
    main()
