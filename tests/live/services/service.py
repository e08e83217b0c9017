# SPDX-License-Identifier: GPL-2.0-or-later
"""A service of threads: GET /N answers "N SUM", SUM of a fresh buffer filled for that number."""

import mmap
import sys
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

pool = ThreadPoolExecutor(4)


def total(n: int) -> int:
    """The sum of a buffer: half of them malloc's, half mapped by ourselves."""
    size, value = n * 7919 % 600_000, n % 251
    if n % 2:
        return sum(bytearray([value]) * size)
    with mmap.mmap(-1, size + 1) as own:
        own[:size] = bytes([value]) * size
        return sum(own[:size])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        n = int(self.path[1:])
        body = f"{n} {pool.submit(total, n).result()}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
