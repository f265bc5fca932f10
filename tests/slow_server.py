"""A server of files that is as far away as one asks for: latency, bandwidth, entity tags, faults, and a count."""

import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PIECE = 2**16


class Server(ThreadingHTTPServer):
    """Serves a folder at `url`.

    Attributes:
        requests: how often each path was asked for, HEAD and GET.
        faults: of each path, how many further GETs of it are answered with `fault`.
        sent: of each path, how many GETs were answered otherwise.
        dead_after: how many of these there are at most.
        fault: a status, or 0 for an answer that is cut short.
        ranges: whether parts of files are served.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path, latency: float = 0.0, bandwidth: float = float("inf")) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.latency, self.bandwidth = folder, latency, bandwidth
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.requests: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.dead_after = float("inf")
        self.fault, self.ranges, self.served = 503, True, 0
        self.lock, self.free = threading.Lock(), 0.0

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that have gone."""

    def turn(self, size: int) -> float:
        """Return when the line has sent so many bytes more."""
        with self.lock:
            self.served += size
            self.free = max(self.free, time.monotonic()) + size / self.bandwidth
            return self.free


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        server, name = self.server, self.path.lstrip("/")
        time.sleep(server.latency)
        with server.lock:
            server.requests[name] += 1
            is_faulty = with_body and (server.faults[name] > 0 or server.sent.total() >= server.dead_after)
            server.faults[name] -= is_faulty
            if with_body and not is_faulty:
                server.sent[name] += 1
        file = server.folder / name
        if not file.is_file() or (is_faulty and server.fault):
            self.send_response(server.fault if is_faulty else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start, end, status = 0, file.stat().st_size, 200
        if server.ranges and (wanted := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))):
            first, last = wanted.groups()
            start, status = int(first) if first else end - int(last), 206
            end = min(int(last) + 1, end) if first and last else end
        with file.open("rb") as stream:
            stream.seek(start)
            content = stream.read(end - start)
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{file.stat().st_mtime_ns}"')
        self.end_headers()
        if is_faulty:
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        for begin in range(0, len(content) if with_body else 0, PIECE):
            piece = content[begin : begin + PIECE]
            time.sleep(max(0.0, server.turn(len(piece)) - time.monotonic()))
            self.wfile.write(piece)


@contextmanager
def serving(folder: Path, latency: float = 0.0, bandwidth: float = float("inf")) -> Iterator[Server]:
    """Serve a folder.

    Args:
        folder: of the files.
        latency: seconds before each answer.
        bandwidth: bytes a second of all answers together.
    """
    with Server(folder, latency, bandwidth) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


if __name__ == "__main__":
    with Server(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])) as far:
        print(far.url, flush=True)
        far.serve_forever()
