"""A headless Chromium, spoken to over its DevTools protocol: enough to use the page as a person would."""

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


#: What Chromium says of a script that ran, or was to run, in a page that gave way to another one.
_GONE = (
    "Inspected target navigated or closed",
    "Execution context was destroyed",
    "Cannot find default execution context",
)


class PageGone(Exception):
    """The page gave way to another one before it could answer. Ask again."""


class Tab:
    """One tab. Everything it complains about is in ``complaints``: script errors, refused files, policy violations."""

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._loop, self._socket, self._number = loop, socket, 0
        self.complaints: list[str] = []

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._loop.run_until_complete(self._command(method, parameters))

    def evaluate(self, script: str) -> Any:
        result = self.command("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)["result"]
        return result.get("value")

    def until(self, script: str, seconds: float = 60) -> None:
        """Return once the script gives something true."""
        end = time.monotonic() + seconds
        while not self._is_true(script):
            assert time.monotonic() < end, f"{script} never came true: {self.evaluate('document.body.innerText')}"
            time.sleep(0.05)

    def _is_true(self, script: str) -> bool:
        try:
            return bool(self.evaluate(script))
        except PageGone:
            return False

    def choose_files(self, selector: str, files: list[Path]) -> None:
        root = self.command("DOM.getDocument")["root"]["nodeId"]
        node = self.command("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.command("DOM.setFileInputFiles", files=[str(file) for file in files], nodeId=node)

    async def _command(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            told = json.loads((await self._socket.receive()).data)
            if told.get("id") == self._number:
                if told.get("error", {}).get("message", "").startswith(_GONE):
                    raise PageGone(method)
                assert "error" not in told, told
                return dict(told["result"])
            if told.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(told["params"]))
            elif told.get("method") == "Log.entryAdded" and told["params"]["entry"]["level"] == "error":
                self.complaints.append(json.dumps(told["params"]["entry"]))


@contextmanager
def started() -> Iterator[int]:
    """Start a browser, and end it afterwards; return the port of its DevTools."""
    assert PROGRAM is not None
    profile = Path(tempfile.mkdtemp(prefix="poxvisio-browser-"))
    options = [
        "--headless=new",
        "--disable-gpu",
        "--no-first-run",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
    ]
    if os.geteuid() == 0:
        options.append("--no-sandbox")  # Chromium refuses to sandbox itself as root
    process = subprocess.Popen([PROGRAM, *options, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield _port(profile)
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(profile, ignore_errors=True)


@contextmanager
def open_tab(port: int) -> Iterator[Tab]:
    """Open a tab in a browser, with nothing of what other tabs have seen or kept, and close it afterwards."""
    loop = asyncio.new_event_loop()
    address = f"127.0.0.1:{port}"
    try:
        with urllib.request.urlopen(f"http://{address}/json/version", timeout=30) as answer:
            whole = json.load(answer)["webSocketDebuggerUrl"]
        with _connected(loop, whole) as browser:
            context = browser.command("Target.createBrowserContext")["browserContextId"]
            target = browser.command("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
            with _connected(loop, f"ws://{address}/devtools/page/{target}") as tab:
                for domain in ("Page", "Runtime", "Log", "DOM"):
                    tab.command(f"{domain}.enable")
                yield tab
            browser.command("Target.disposeBrowserContext", browserContextId=context)
    finally:
        loop.close()


def _port(profile: Path) -> int:
    told = profile / "DevToolsActivePort"
    end = time.monotonic() + 60
    while not told.exists() or not told.read_text():
        assert time.monotonic() < end, "the browser did not start"
        time.sleep(0.05)
    return int(told.read_text().splitlines()[0])


@contextmanager
def _connected(loop: asyncio.AbstractEventLoop, address: str) -> Iterator[Tab]:
    async def connect() -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse]:
        session = aiohttp.ClientSession(trust_env=False)
        return session, await session.ws_connect(address, max_msg_size=0)

    session, socket = loop.run_until_complete(connect())
    try:
        yield Tab(loop, socket)
    finally:
        loop.run_until_complete(socket.close())
        loop.run_until_complete(session.close())
