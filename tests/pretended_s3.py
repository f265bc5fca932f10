"""A server of a folder on this machine that speaks as much of S3 as is needed to read from a bucket."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


class Bucket(http.server.ThreadingHTTPServer):
    """Serves a folder as a bucket; keeps the paths that were asked for, and whether requests were signed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.folder = folder
        self.asked: list[str] = []
        self.signed: list[bool] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def bucket_of(folder: Path) -> Iterator[Bucket]:
    """Serve a folder, each folder in which is a bucket."""
    with Bucket(folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


class _Answers(http.server.BaseHTTPRequestHandler):
    server: Bucket
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        self.server.asked.append(self.path)
        self.server.signed.append("Authorization" in self.headers)
        place, query = self.server.folder / unquote(asked.path).strip("/"), parse_qs(asked.query)
        if "list-type" in query:
            self._answer(200, self._listing(place, query.get("prefix", [""])[0]), "application/xml")
        elif not place.is_file():
            self._answer(
                404, b"<Error><Code>NoSuchKey</Code><Message>there is none</Message></Error>", "application/xml"
            )
        else:
            content, told = place.read_bytes(), self.headers.get("Range")
            if told is None:
                self._answer(200, content)
            else:
                first, _, last = told.removeprefix("bytes=").partition("-")
                begin, end = int(first), min(int(last or len(content)), len(content) - 1)
                self._answer(206, content[begin : end + 1], part=f"bytes {begin}-{end}/{len(content)}")

    do_HEAD = do_GET

    def _listing(self, bucket: Path, prefix: str) -> bytes:
        keys = sorted(file.relative_to(bucket).as_posix() for file in bucket.rglob("*") if file.is_file())
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2001-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>x</ETag><Size>{(bucket / key).stat().st_size}</Size></Contents>"
            for key in keys
            if key.startswith(prefix)
        )
        head = f"<Name>{bucket.name}</Name><Prefix>{escape(prefix)}</Prefix><IsTruncated>false</IsTruncated>"
        return f"<ListBucketResult>{head}{found}</ListBucketResult>".encode()

    def _answer(self, status: int, content: bytes, kind: str = "binary/octet-stream", part: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", '"x"')
        self.send_header("Last-Modified", "Mon, 01 Jan 2001 00:00:00 GMT")
        if part is not None:
            self.send_header("Content-Range", part)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
