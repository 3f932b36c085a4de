"""A headless Chromium, driven over the pipe that it offers to debuggers."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 120  # seconds, for a machine that is busy


class Browser:
    """One page. `complaints` are its errors and whatever it wrote to the console or asked the network for."""

    def __init__(self, commands: int, answers: int) -> None:
        self.commands, self.answers = commands, answers
        self.count, self.rest, self.session = 0, b"", ""
        self.complaints: list[str] = []
        self.loaded = False

    def open(self, path: Path, width: int = 1000, dark: bool = False) -> None:
        if not self.session:
            target = self.ask("Target.createTarget", url="about:blank")["targetId"]
            self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.ask(f"{domain}.enable")
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        self.ask("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.loaded = False
        self.ask("Page.navigate", url=path.resolve().as_uri())
        self.wait()

    def wait(self) -> None:
        """Until the page is loaded, once `loaded` was set to False."""
        while not self.loaded:
            self._receive()

    def run(self, script: str) -> Any:
        """The value of an expression in the page, once it is there."""
        told = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            code = {"Enter": 13, "ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40}[key]
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.count += 1
        message: dict[str, Any] = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while (told := self._receive()).get("id") != self.count:
            pass
        assert "error" not in told, (method, told["error"])
        return told["result"]

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.answers], [], [], max(0, end - time.monotonic()))
            assert ready, f"the browser said nothing for {PATIENCE} seconds"
            part = os.read(self.answers, 1 << 20)
            assert part, "the browser is gone"
            self.rest += part
        line, _, self.rest = self.rest.partition(b"\0")
        told = json.loads(line)
        self._note(told.get("method", ""), told.get("params", {}))
        return told

    def _note(self, event: str, about: dict[str, Any]) -> None:
        if event == "Page.loadEventFired":
            self.loaded = True
        elif event in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
            self.complaints.append(json.dumps(about))
        elif event == "Network.requestWillBeSent":
            url = about["request"]["url"]
            if not url.startswith(("file:", "data:")):
                self.complaints.append(f"asked for {url}")


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Chromium with a fresh profile in a folder; it reads commands from its file 3 and answers on its file 4."""
    assert CHROMIUM is not None
    theirs_in, commands = os.pipe()
    answers, theirs_out = os.pipe()
    high_in, high_out = (fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (theirs_in, theirs_out))  # clear of 3 and 4
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    line = [CHROMIUM, *flags, *quiet, f"--user-data-dir={folder / 'profile'}", "--remote-debugging-pipe", "about:blank"]
    shell = ["bash", "-c", f'exec "$@" 3<&{high_in} 4>&{high_out}', "bash", *line]
    with subprocess.Popen(
        shell, pass_fds=(high_in, high_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        for end in (theirs_in, theirs_out, high_in, high_out):
            os.close(end)
        try:
            yield Browser(commands, answers)
        finally:
            with suppress(OSError):
                os.write(commands, b'{"id": 0, "method": "Browser.close"}\0')
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
            os.close(commands)
            os.close(answers)
