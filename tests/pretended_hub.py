"""The few routes of Hugging Face's server that its client takes to make, read and write a repository."""

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Hub(http.server.ThreadingHTTPServer):
    """Holds the commits of one repository in memory."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.commits: dict[str, dict[str, bytes]] = {}
        self.sent: list[str] = []

    @property
    def files(self) -> dict[str, bytes]:
        return list(self.commits.values())[-1]

    def commit(self, files: dict[str, bytes]) -> None:
        self.commits[f"{len(self.commits):040x}"] = files


@contextmanager
def running() -> Iterator[Hub]:
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield hub
        hub.shutdown()


class _Answers(http.server.BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format, *args) -> None:
        pass

    def _say(self, content: object, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        # /api/models/OWNER/NAME[/revision/REVISION] or /OWNER/NAME/resolve/REVISION/FILE
        path, commits = self.path.partition("?")[0].split("/"), self.server.commits
        at = [each for each in path if each in commits] or list(commits)[-1:]
        if not at:
            self._say({}, 404, X_Error_Code="RepoNotFound")
        elif path[1] == "api":
            held = [{"rfilename": name, "size": len(body)} for name, body in commits[at[0]].items()]
            self._say({"id": "me/unet", "sha": at[0], "siblings": held})
        else:
            body = commits[at[0]][name := "/".join(path[5:])]
            self.server.sent += [name] if self.command == "GET" else []
            self._say(body, X_Repo_Commit=at[0], ETag=f'"{hashlib.sha1(body).hexdigest()}"')

    do_HEAD = do_GET

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = self.path.partition("?")[0].split("/")[-2:]
        if asked[1] == "create" and not self.server.commits:
            self.server.commit({".gitattributes": b""})
        if asked[0] == "preupload":
            told = [each | {"uploadMode": "regular", "shouldIgnore": False} for each in json.loads(sent)["files"]]
            return self._say({"files": told})
        if asked[0] == "commit":
            changes = [json.loads(line) for line in sent.splitlines()]
            gone = {each["value"]["path"] for each in changes if each["key"] == "deletedFile"}
            new = {each["value"]["path"]: each["value"]["content"] for each in changes if each["key"] == "file"}
            files = {name: body for name, body in self.server.files.items() if name not in gone}
            self.server.commit(files | {name: base64.b64decode(content) for name, content in new.items()})
        return self._say({"url": f"{self.server.url}/me/unet", "commitUrl": f"{self.server.url}/me/unet/commit/x",
                          "commitOid": "x", "errors": [], "warnings": []})  # fmt: skip
