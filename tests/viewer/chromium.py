"""A Chromium without a window, driven by its own protocol, for which Bokeh's tornado is enough."""

import base64
import json
import shutil
import subprocess
import time
import urllib.request

from tornado.ioloop import IOLoop
from tornado.websocket import websocket_connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def found():
    """Return the browser's path, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page.

    Attributes:
        errors: what the page said went wrong.
    """

    def __init__(self, address, folder, size=(1700, 1000)):
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-port=0",
            f"--user-data-dir={folder}",
        ]
        self.process = subprocess.Popen(
            [found(), *flags, f"--window-size={size[0]},{size[1]}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        port = self._wait(lambda: (folder / "DevToolsActivePort").read_text().splitlines()[0])
        listed = f"http://127.0.0.1:{port}/json"
        pages = self._wait(lambda: [p for p in json.load(urllib.request.urlopen(listed)) if p["type"] == "page"])
        self.loop, self.count, self.errors = IOLoop(make_current=False), 0, []
        self.socket = self.loop.run_sync(
            lambda: websocket_connect(pages[0]["webSocketDebuggerUrl"], max_message_size=2**28)
        )
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")
        self.ask("Page.navigate", url=address)

    @staticmethod
    def _wait(what, seconds=40):
        end = time.monotonic() + seconds
        while True:
            try:
                if answer := what():
                    return answer
            except (OSError, IndexError):
                pass
            assert time.monotonic() < end, "the browser does not answer"
            time.sleep(0.1)

    def ask(self, method, **parameters):
        self.count += 1
        self.socket.write_message(json.dumps({"id": self.count, "method": method, "params": parameters}))
        while True:
            said = json.loads(self.loop.run_sync(self.socket.read_message, timeout=60))
            if said.get("method") == "Runtime.exceptionThrown":
                self.errors.append(said["params"]["exceptionDetails"])
            if said.get("method") == "Log.entryAdded" and said["params"]["entry"]["level"] == "error":
                self.errors.append(said["params"]["entry"])
            if said.get("method") == "Runtime.consoleAPICalled" and said["params"]["type"] == "error":
                self.errors.append(said["params"]["args"])
            if said.get("id") == self.count:
                assert "error" not in said, said
                return said["result"]

    def run(self, script):
        """Return what a script evaluates to."""
        return self.ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def until(self, script, seconds=40):
        return self._wait(lambda: self.run(script), seconds)

    def click(self, x, y):
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self, path):
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot")["data"]))

    def close(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait(20)
