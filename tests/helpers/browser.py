"""Headless Chromium, controlled through pipes by the DevTools protocol."""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --remote-debugging-pipe"
)


class Page:
    """A tab, its errors and console messages (`events`), and the addresses of its requests."""

    def __init__(self, commands: Any, answers: Any) -> None:
        self._commands, self._answers, self._ids = commands, answers, itertools.count(1)
        self._session: dict[str, str] = {}
        self.events: list[Any] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """Run a command of the protocol and return its result."""
        number = next(self._ids)
        command = {"id": number, "method": method, "params": parameters, **self._session}
        self._commands.write(json.dumps(command).encode() + b"\0")
        self._commands.flush()
        while True:
            message = self._read()
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    def _read(self) -> Any:
        data = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "the browser ended"
            data += byte
        message = json.loads(data)
        method, values = message.get("method"), message.get("params", {})
        if method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
            self.events.append(values)
        elif method == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        return message

    def open(self, address: str, width: int = 1280, height: int = 800, scheme: str = "light"):
        """Load a page at a size in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=2, mobile=False)  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.events.clear()
        self.requests.clear()
        self.call("Page.navigate", url=address)
        self.run("new Promise((done) => document.readyState === 'complete' ? done()"
                 " : addEventListener('load', done))")  # fmt: skip

    def run(self, script: str) -> Any:
        """Return the value of an expression; await a promise."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true, for at most 10 seconds."""
        self.run(f"""(async () => {{
          for (let i = 0; i < 500; i++) {{
            if ({condition}) return;
            await new Promise((done) => setTimeout(done, 20));
          }}
          throw new Error({json.dumps("timed out waiting for: " + condition)});
        }})()""")


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """Start a browser with an empty profile folder, and yield a page."""
    to_browser, commands = os.pipe()
    answers, from_browser = os.pipe()
    words = [str(CHROMIUM), *FLAGS.split(), f"--user-data-dir={profile}"]
    # The browser reads file descriptor 3 and writes to 4.
    script = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", *words],
        pass_fds=(to_browser, from_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(from_browser)
    try:
        with os.fdopen(commands, "wb") as write, os.fdopen(answers, "rb") as read:
            page = Page(write, read)
            yield page
            page._session = {}
            page.call("Browser.close")
        process.wait(10)
    finally:
        process.kill()
        process.wait()
