"""Ten minutes of use in a real browser; it fails where something is logged or a wait is longer than 200 ms.

python -m tests.live.ten_minutes --minutes 10 --shots /tmp/shots
python -m tests.live.ten_minutes --minutes 10 --server "--run runs/flight"
python -m tests.live.ten_minutes --minutes 2 --steered      # a small random network that can be steered
"""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.live_page import Visit, browsing, served, steerable

PROMPTS = (
    "a slow flight north over a green meadow, a red ball bounces",
    "flying west over a blue ocean, fast, a white ball bounces",
    "a fast flight south over a yellow desert, a red ball bounces",
    "flying east over a pale snow, slow, a red ball bounces",
)
FLIGHTS = (
    "FPV flight over snowy mountains at sunrise, clear sky",
    "flying low over tropical islands, noon, scattered clouds, with hot-air balloons",
    "red canyons seen from the air at sunset, clear sky, with white towers",
    "a drone glides over green hills under a night light, thick haze",
)
HELD = (["d"], ["ArrowUp", "a"], ["s"], ["i"], ["k"], ["j"], ["l"], ["j", "l"], ["w", "s"], ["w"])
"""Keys that are held at a time; the two of a pair undo each other, look back or hover."""


class Use:
    """Scenes, one after the other, in one window that stays open."""

    def __init__(self, visit: Visit, busy: bool = False) -> None:
        self.visit, self.page, self.turn, self.busy = visit, visit.page, 0, busy
        self.prompts = FLIGHTS if self.page.is_visible("#steer") else PROMPTS

    def watch(self, seconds: float = 4) -> None:
        self.page.wait_for_timeout(seconds * 1000)

    def switch(self) -> None:
        for kind in ("keep", "recache", "flush", "cut"):
            self.turn += 1
            anchor = "reset" if self.turn % 5 == 0 else "keep"
            self.visit.prompt(self.prompts[self.turn % len(self.prompts)], kind, anchor)
            self.watch(3)

    def steer(self) -> None:
        if not self.page.is_visible("#steer"):
            return
        self.page.locator("h1").click()
        for keys in HELD:
            for key in keys:
                self.page.keyboard.down(key)
            self.watch(1.5)
            assert self.page.locator(".key.held").count() == len(keys)
            for key in keys:
                self.page.keyboard.up(key)
        assert "chunk" in self.page.locator("#steer-note").inner_text()

    def back(self) -> None:
        self.watch(3)
        chunk = self.visit.chunk()
        self.page.locator(f"[data-chunk='{chunk - 5}']").click()
        self.visit.receipt("went back")
        self.visit.before(chunk)
        self.watch()

    def fork(self) -> None:
        chunk = self.visit.chunk()
        self.page.locator(f"[data-chunk='{chunk - 2}']").click(modifiers=["Shift"])
        self.visit.chunks(2, pane=1)
        self.page.fill("#prompt", self.prompts[(self.turn + 2) % len(self.prompts)])
        self.page.click("#send")
        self.watch()
        self.check()
        self.page.locator(".pane").nth(1).get_by_role("button", name="Close").click()

    def compare(self) -> None:
        rivals = [option.get_attribute("value") for option in self.page.locator("#rival option").all()]
        rivals = [rival for rival in rivals if rival != self.page.input_value("#system")]
        if not rivals:
            return
        self.page.select_option("#rival", rivals[self.turn % len(rivals)])
        self.page.click("#compare")
        self.page.locator(".pane").nth(1).wait_for()
        self.visit.chunks(2, pane=1)
        self.visit.prompt(self.prompts[self.turn % len(self.prompts)], "recache")
        self.watch(6)
        self.check()
        self.page.locator(".pane").nth(1).get_by_role("button", name="Close").click()

    def record(self) -> None:
        self.page.click("#record")
        self.visit.receipt("recording")
        self.watch()
        self.page.click("#record")
        with self.page.expect_download() as download:
            self.page.click("#download")
        assert Path(download.value.path()).stat().st_size > 1000

    def reconnect(self) -> None:
        self.visit.lose()
        self.page.locator("#connection[data-state=lost]").wait_for()
        self.watch(2)
        self.visit.regain()
        self.page.locator("#connection[data-state=live]").wait_for()
        self.visit.chunks(3)

    def check(self) -> None:
        """Nothing was logged and, unless the machine is busy, nothing came late, in any pane."""
        self.visit.calm()
        for pane in range(self.page.locator(".pane").count()):
            late = self.visit.number("underruns", pane)
            assert late == "0" or self.busy, f"frames came late in pane {'AB'[pane]}: {late}"


def use(visit: Visit, minutes: float, shots: Path | None, busy: bool = False) -> int:
    """Plays scenes until the time is up, each at least once; returns how many it played."""
    user = Use(visit, busy)
    scenes: list[Callable[[], None]] = [
        user.switch, user.steer, user.back, user.fork, user.compare, user.record, user.reconnect,
    ]  # fmt: skip
    end, played = time.monotonic() + 60 * minutes, 0
    while played < len(scenes) or time.monotonic() < end:
        scene = scenes[played % len(scenes)]
        scene()
        user.check()
        if shots:
            visit.page.screenshot(path=shots / f"{played:03}_{scene.__name__}.png")
        print(f"{scene.__name__}: last control {visit.number('latency')}, {visit.number('fps')} frames/s", flush=True)
        played += 1
    return played


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="how long; every scene is played at least once")
    parser.add_argument("--server", default="", help="flags of adastate live")
    parser.add_argument("--shots", type=Path, help="folder for a screenshot after each scene")
    parser.add_argument("--steered", action="store_true", help="a small random network that can be steered")
    parser.add_argument("--busy", action="store_true", help="other work goes on: what comes late is no failure")
    given = parser.parse_args()
    if given.shots:
        given.shots.mkdir(parents=True, exist_ok=True)
    flags: list[str | Path] = [*shlex.split(given.server)]
    with TemporaryDirectory() as folder:
        if given.steered:
            flags += steerable(Path(folder))
        play(flags, given.minutes, given.shots, given.busy)


def play(flags: list[str | Path], minutes: float, shots: Path | None, busy: bool) -> None:
    with served(*flags) as address, browsing() as browser:
        visit = Visit(browser, address)
        began = time.monotonic()
        played = use(visit, minutes, shots, busy)
        late = "" if busy else ", nothing late"
        print(f"{played} scenes in {(time.monotonic() - began) / 60:.1f} minutes: nothing logged{late}")


if __name__ == "__main__":
    main()
