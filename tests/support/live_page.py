"""A server of live sessions and a browser that uses its page, for tests/live."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
START_S, WAIT_MS = 120, 30_000
SHOWN = """((pane) => {
    const button = document.querySelectorAll(".pane")[pane]?.querySelector("[aria-current]");
    return button ? Number(button.dataset.chunk) : null;
})"""
"""In the page: the number of the chunk that a pane shows, or null."""
VIDEO, STATE = ".video .frame", ".state .frame"


@contextmanager
def served(*flags: str | Path) -> Iterator[str]:
    """The address of a server in a process of its own, which ends with the block."""
    port = free_port()
    command = [sys.executable, "-m", "adastate", "live", "--port", str(port), *map(str, flags)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        _wait_for(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(START_S * 5):
        assert process.poll() is None and process.stdout, process.communicate()[0].decode()
        try:
            urllib.request.urlopen(f"{address}/v1/health", timeout=5).close()
            return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    raise AssertionError(f"no answer from {address} within {START_S} s")


def steerable(folder: Path) -> list[str | Path]:
    """Flags of `adastate live` for a small random network of the flight world, which is written into `folder`."""
    from adastate.models.video_network import Size
    from adastate.weights import native
    from tests.support.tiny import random_net

    config = yaml.safe_load((ROOT / "conf/sizes/flight.yaml").read_text())
    config["size"] |= {"width": 32, "layers": 1, "heads": 2, "ffn": 32}
    (folder / "size.yaml").write_text(yaml.safe_dump(config))
    native.save_weights(random_net(Size(**config["size"])), folder / "weights.safetensors")
    return ["--weights", folder / "weights.safetensors", "--size", folder / "size.yaml"]


@contextmanager
def browsing() -> Iterator[Any]:
    """Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


class Visit:
    """A window with the page. It notes what the page logs, and which hosts it asks; `lose` cuts its sockets."""

    def __init__(self, browser: Any, address: str, fragment: str = "", context: Any = None, **options: Any) -> None:
        self.address, self.host = address, urlsplit(address).netloc
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        self.context = context or browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("console", lambda line: line.type in ("error", "warning") and self.complaints.append(line.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self._asked(request.url))
        self.page.on("websocket", lambda socket: self._asked(socket.url))
        self._reachable, self._open = True, list[Any]()
        self.page.route_web_socket("**", self._socket)
        self.page.goto(f"{address}/{fragment}")
        self.chunks(1)

    def _asked(self, url: str) -> None:
        if urlsplit(url).scheme not in ("data", "blob") and urlsplit(url).netloc != self.host:
            self.foreign.append(url)

    def _socket(self, socket: Any) -> None:
        if not self._reachable:
            socket.close()
            return
        self._asked(socket.url)
        socket.connect_to_server()
        self._open.append(socket)

    def lose(self) -> None:
        """The connection is lost, and stays so until `regain`."""
        self._reachable = False
        for socket in self._open:
            socket.close()
        self._open.clear()

    def regain(self) -> None:
        self._reachable = True

    def chunks(self, more: int, pane: int = 0) -> None:
        """Waits until a pane shows `more` chunks beyond the one that it shows now."""
        now = self.page.evaluate(f"{SHOWN}({pane})")
        self.until(more + (-1 if now is None else now), pane)

    def until(self, chunk: int, pane: int = 0) -> None:
        """Waits until a pane shows a chunk or a later one."""
        self.page.wait_for_function(f"([pane, chunk]) => ({SHOWN}(pane) ?? -1) >= chunk", arg=[pane, chunk])

    def before(self, chunk: int, pane: int = 0) -> None:
        """Waits until a pane shows an earlier chunk."""
        self.page.wait_for_function(f"([pane, chunk]) => ({SHOWN}(pane) ?? chunk) < chunk", arg=[pane, chunk])

    def chunk(self, pane: int = 0) -> int:
        """The number of the chunk that a pane shows."""
        current = self.page.locator(".pane").nth(pane).locator("[aria-current]")
        return int(current.get_attribute("data-chunk"))

    def pixels(self, which: str = VIDEO, pane: int = 0) -> str:
        """A canvas as it is now, as text that differs where a pixel does."""
        canvas = self.page.locator(".pane").nth(pane).locator(which)
        return str(canvas.evaluate("(canvas) => canvas.toDataURL()"))

    def thumbnails(self, pane: int = 0) -> dict[int, str]:
        """The pictures of the strip by chunk."""
        strip = self.page.locator(".pane").nth(pane).locator(".strip")
        script = "(s) => [...s.children].map(b => [+b.dataset.chunk, b.firstElementChild.toDataURL()])"
        return dict(strip.evaluate(script))

    def prompt(self, text: str, kind: str = "keep", anchor: str = "keep") -> None:
        """Types a prompt, chooses what becomes of the past and the state, and waits for the receipt."""
        self.page.fill("#prompt", text)
        self.page.check(f"[name=kind][value={kind}]")
        self.page.check(f"[name=anchor][value={anchor}]")
        self.page.click("#send")
        self.receipt(f"prompt, {kind}")
        self.page.wait_for_function("(t) => document.querySelector('.pane-prompt').textContent === t", arg=text)

    def receipt(self, text: str) -> None:
        self.page.locator("#receipts li", has_text=text).last.wait_for()

    def number(self, name: str, pane: int = 0) -> str:
        return str(self.page.locator(".pane").nth(pane).locator(f".n-{name}").inner_text())

    def calm(self) -> None:
        """Nothing was logged and nobody else asked, so far."""
        assert self.complaints == [] and self.foreign == []

    def close(self) -> None:
        self.page.close()
