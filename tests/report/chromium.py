"""A headless Chromium driven through a pipe by its DevTools protocol; nothing has to be installed beside it."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find() -> str | None:
    """The path of a browser, or None; what it is driven through is not there on Windows."""
    if sys.platform == "win32":
        return None
    return os.environ.get("BOILDOWN_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """One page. `console` has what it logged and threw, `requests` every address it asked for."""

    def __init__(self, patience: float = 60.0) -> None:
        self.patience, self.console, self.requests = patience, [], []
        self._number, self._rest, self._answers = 0, b"", {}
        read, self._out = os.pipe()
        self._in, write = os.pipe()
        # Passed on under high numbers, then put where the browser looks for them.
        read, write = (fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (read, write))
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
                 "--disable-background-networking", "--disable-component-update", "--disable-extensions",
                 "--disable-dev-shm-usage", "--remote-debugging-pipe",
                 f"--user-data-dir={self._profile.name}"]  # fmt: skip
        shell = f'exec "$@" 3<&{read} 4>&{write}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "browser", find(), *flags, "about:blank"], pass_fds=(read, write),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read)
        os.close(write)
        self._session = None
        target = next(t for t in self._pages() if t["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def _pages(self):
        end = time.monotonic() + self.patience
        while time.monotonic() < end:
            found = self.call("Target.getTargets")["targetInfos"]
            if any(target["type"] == "page" for target in found):
                return found
            time.sleep(0.1)
        raise TimeoutError("The browser has no page.")

    def call(self, method: str, **parameters):
        """One command; its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + self.patience
        while self._number not in self._answers:
            self._receive(end - time.monotonic())
        answer = self._answers.pop(self._number)
        assert "error" not in answer, answer
        return answer["result"]

    def _receive(self, seconds: float) -> None:
        if not select.select([self._in], [], [], max(seconds, 0))[0]:
            raise TimeoutError("The browser does not answer.")
        *whole, self._rest = (self._rest + os.read(self._in, 1 << 20)).split(b"\0")
        for message in map(json.loads, whole):
            if "id" in message:
                self._answers[message["id"]] = message
            else:
                self._hear(message["method"], message["params"])

    def _hear(self, event: str, data) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(data["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.console.append(str(data["exceptionDetails"]))
        elif event in ("Runtime.consoleAPICalled", "Log.entryAdded"):
            self.console.append(str(data))

    def open(self, page: Path, width: int = 1280, height: int = 900, **media: str) -> None:
        """Show a file; `media` are features such as `scheme="dark"`, or `print=True`."""
        self.size(width, height)
        self.media(**media)
        self.console.clear()
        self.requests.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        end = time.monotonic() + self.patience
        while time.monotonic() < end and not self.run(
            "document.readyState === 'complete' && location.href !== 'about:blank'"
        ):
            time.sleep(0.02)

    def size(self, width: int, height: int) -> None:
        """The window."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def media(self, scheme: str = "light", medium: str = "") -> None:
        """Colour scheme and medium (print); nothing moves by itself."""
        features = [("prefers-color-scheme", scheme), ("prefers-reduced-motion", "reduce")]
        features = [{"name": name, "value": value} for name, value in features]
        self.call("Emulation.setEmulatedMedia", media=medium, features=features)

    def run(self, script: str):
        """The value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def hover(self, selector: str) -> None:
        """Move the mouse over an element."""
        self.run(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        x, y = self.run(
            f"(() => {{ const b = document.querySelector({selector!r}).getBoundingClientRect();"
            " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key: str) -> None:
        """Press a key, such as Tab, Enter or Escape."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                **(text if kind == "keyDown" else {}),
            )  # fmt: skip

    def shot(self, path: Path, whole: bool = True) -> None:
        """A picture of the page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def print(self) -> bytes:
        """The page as PDF."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=True)["data"])

    def close(self) -> None:
        """End the browser."""
        with contextlib.suppress(OSError):
            os.close(self._out)  # a closed pipe ends it
        self._process.terminate()
        self._process.wait(20)
        os.close(self._in)
        self._profile.cleanup()
