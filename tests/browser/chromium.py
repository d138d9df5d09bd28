"""A headless Chromium that tests steer by its own protocol (CDP, over a pipe): real keys, real layout.

    with Chromium(tmp_path) as page: page.open(url); page.press("j"); page.wait("document.title === 'done'")

It needs no other package, and no name but 127.0.0.1 can be resolved in it.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

KEYS = {"Enter": (13, "Enter", "\r"), "Escape": (27, "Escape", ""), "Tab": (9, "Tab", ""),
        "ArrowRight": (39, "ArrowRight", ""), "ArrowLeft": (37, "ArrowLeft", "")}  # fmt: skip
ALT, CTRL = 1, 2


class Chromium:
    """One page. problems: what its console complained about, and errors that no script caught."""

    def __init__(self, folder: Path, width: int = 1280, height: int = 900):
        browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        assert browser, "no Chromium on this machine: apt-get install chromium"
        to_read, self._out = os.pipe()
        self._in, to_write = os.pipe()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe",
                   "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={folder / 'profile'}",
                   f"--window-size={width},{height}", "about:blank"]  # fmt: skip
        fds = f'exec "$@" 3<&{to_read} 4>&{to_write}'
        self._log = (folder / "chromium.log").open("wb")
        self._process = subprocess.Popen(["bash", "-c", fds, "chromium", browser, *options],
                                         pass_fds=(to_read, to_write), stdout=self._log, stderr=self._log)  # fmt: skip
        os.close(to_read), os.close(to_write)
        self._buffer, self._number, self._session = b"", 0, ""
        self.problems: list[str] = []
        target = next(t for t in self.send("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> "Chromium":
        return self

    def __exit__(self, *_: object) -> None:
        self._session = ""
        try:
            self.send("Browser.close")
            self._process.wait(20)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._in), os.close(self._out), self._log.close()

    # ---- the protocol
    def send(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            told = self._receive()
            if told.get("id") == self._number:
                assert "error" not in told, f"{method}: {told['error']}"
                return told["result"]

    def _receive(self, seconds: float = 60) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], seconds)
            assert ready, f"Chromium said nothing for {seconds} s"
            data = os.read(self._in, 1 << 20)
            assert data, "Chromium ended"
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\0", 1)
        told = json.loads(line)
        if told.get("method") == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(told["params"]["exceptionDetails"]))
        if told.get("method") == "Log.entryAdded" and told["params"]["entry"]["level"] == "error":
            self.problems.append(json.dumps(told["params"]["entry"]))
        if told.get("method") == "Page.javascriptDialogOpening":
            self.problems.append("a dialog: " + told["params"]["message"])
        return told

    # ---- what a person does
    def open(self, url: str) -> None:
        self.send("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def size(self, width: int, height: int, scheme: str = "light", phone: bool = False) -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=2 if phone else 1, mobile=phone)  # fmt: skip
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def press(self, key: str, modifiers: int = 0) -> None:
        code, name, text = KEYS.get(key) or (
            ord(key.upper()),
            f"Digit{key}" if key.isdigit() else f"Key{key.upper()}",
            key,
        )
        event = {"key": key, "code": name, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        down = {"text": text} if text and not modifiers else {}
        self.send("Input.dispatchKeyEvent", type="keyDown" if down else "rawKeyDown", **event, **down)
        self.send("Input.dispatchKeyEvent", type="keyUp", **event)

    def write(self, text: str) -> None:
        self.send("Input.insertText", text=text)

    def value(self, expression: str) -> Any:
        told = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def wait(self, condition: str, seconds: float = 60) -> None:
        """Until an expression of the page is true."""
        end = time.monotonic() + seconds
        while not self.value(f"Boolean({condition})"):
            assert time.monotonic() < end, f"{condition} never came true; {self.value('document.body.innerText')}"
            time.sleep(0.02)

    def picture(self, path: Path, whole: bool = True) -> None:
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))
