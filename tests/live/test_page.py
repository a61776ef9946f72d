"""The page of `adastate live` in a real browser: what a stranger does with it."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.live_page import CHROMIUM, STATE, VIDEO, Visit, browsing, served, steerable

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="Playwright is not installed"),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]
GREEN, BLUE = "a slow flight north over a green meadow, a red ball bounces", "flying west over a blue ocean, fast"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as browser:
        yield browser


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served() as address:
        yield address


TOKEN = "a-token-for-these-tests"


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of a small random network that flies, and that wants a token."""
    flags = steerable(tmp_path_factory.mktemp("steered"))
    with served(*flags, "--token", TOKEN) as address:
        yield address


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Visit]:
    visit = Visit(browser, address)
    yield visit
    visit.calm()
    visit.context.close()


def test_the_video_and_the_state_move_and_no_word_is_said_to_anyone_else(visit: Visit) -> None:
    video, state = visit.pixels(VIDEO), visit.pixels(STATE)
    visit.chunks(2)
    assert visit.pixels(VIDEO) != video and visit.pixels(STATE) != state
    shares = [int(m.get_attribute("aria-valuenow")) for m in visit.page.locator("[role=meter]").all()]
    assert len(shares) == 3 and 98 <= sum(shares) <= 102 and shares[0] > 0
    assert visit.number("first") != "–" and visit.number("bytes").endswith("B")


@pytest.mark.parametrize("kind", ["keep", "recache", "flush", "cut"])
def test_a_prompt_is_typed_and_the_stream_follows(visit: Visit, kind: str) -> None:
    visit.prompt(BLUE, kind, anchor="reset" if kind == "cut" else "keep")
    visit.chunks(3)
    red, green, blue = visit.page.locator(VIDEO).evaluate(MEAN)
    assert kind == "keep" or blue > max(red, green), "the ocean is blue"
    assert visit.number("latency") != "–"
    assert visit.page.locator(".chunk-button.changed").count() >= 2


MEAN = """canvas => { const d = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  return [0, 1, 2].map(c => d.filter((_, i) => i % 4 === c).reduce((a, b) => a + b) / (d.length / 4)) }"""


def test_a_hostile_prompt_is_text(visit: Visit) -> None:
    hostile = "<img src=x onerror=\"document.title='taken'\"> <script>document.title='taken'</script> ${1} {{7*7}}"
    visit.prompt(hostile)
    visit.chunks(1)
    assert visit.page.locator(".pane-prompt").inner_text() == hostile
    assert visit.page.locator("main img, main script").count() == 0 and visit.page.title() == "adastate live"
    assert "Never seen in training" in visit.page.locator("#prompt-note").inner_text()


def test_words_are_suggested(visit: Visit) -> None:
    page = visit.page
    page.fill("#prompt", "")
    page.locator("#words li").first.wait_for()  # examples
    page.fill("#prompt", "a slow flight nor")
    page.press("#prompt", "ArrowDown")
    assert page.locator("#words [aria-selected=true]").inner_text() == "north"
    page.press("#prompt", "Enter")
    assert page.input_value("#prompt") == "a slow flight north " and page.locator("#words li").count() == 0


def test_a_click_goes_back_and_the_same_chunks_come_again(visit: Visit) -> None:
    visit.chunks(6)
    before = visit.thumbnails()
    visit.page.locator("[data-chunk='2']").click()
    visit.receipt("went back")
    visit.until(5)
    after = visit.thumbnails()
    assert {n: after[n] for n in range(6)} == {n: before[n] for n in range(6)}


def test_shift_click_forks_into_a_second_pane_which_goes_its_own_way(visit: Visit) -> None:
    visit.chunks(4)
    visit.page.locator("[data-chunk='2']").click(modifiers=["Shift"])
    visit.until(4, pane=0)
    visit.until(4, pane=1)
    assert visit.page.input_value("#target") == "1"
    ours, theirs = visit.thumbnails(0), visit.thumbnails(1)
    assert all(ours[n] == theirs[n] for n in range(5)), "until something else is asked for, they are the same"
    visit.page.fill("#prompt", BLUE)
    visit.page.check("[name=kind][value=flush]")
    visit.page.click("#send")
    visit.receipt("B: prompt, flush")
    assert visit.page.locator(".pane-prompt").nth(0).inner_text() != BLUE
    visit.page.locator(".pane").nth(1).get_by_role("button", name="Close").click()
    assert visit.page.locator(".pane").count() == 1
    visit.chunks(2)


def test_two_systems_with_the_same_noise_and_controls(visit: Visit) -> None:
    first = visit.page.input_value("#system")
    visit.page.click("#compare")
    visit.page.locator(".pane").nth(1).wait_for()
    visit.chunks(2, pane=0)
    visit.chunks(2, pane=1)
    assert first in visit.page.locator(".pane-name").nth(0).inner_text()
    assert visit.page.input_value("#rival") in visit.page.locator(".pane-name").nth(1).inner_text()
    assert not visit.page.is_visible("#target-field"), "controls go to both"
    visit.prompt(BLUE, "flush")
    for pane in range(2):
        visit.page.locator(".pane").nth(pane).locator(".chunk-button.changed").nth(1).wait_for()
    changed = visit.page.locator(".pane").nth(0).locator(".chunk-button.changed").last.get_attribute("data-chunk")
    other = visit.page.locator(".pane").nth(1).locator(".chunk-button.changed").last.get_attribute("data-chunk")
    assert changed == other, "in the same chunk"


def test_a_recording_is_a_video(visit: Visit, tmp_path: Path) -> None:
    visit.page.click("#record")
    visit.receipt("recording")
    visit.chunks(4)
    visit.page.click("#record")
    visit.receipt("recorded")
    with visit.page.expect_download() as download:
        visit.page.click("#download")
    download.value.save_as(tmp_path / "it.mp4")
    import av

    with av.open(str(tmp_path / "it.mp4")) as video:
        assert len(list(video.decode(video=0))) >= 9


def test_a_link_replays_the_stream_to_the_bit(visit: Visit, browser: Any, address: str) -> None:
    visit.page.fill("#seed", "7")
    visit.page.click("#restart")
    visit.before(2)
    visit.chunks(2)
    visit.prompt(BLUE, "recache")
    visit.chunks(4)
    visit.page.click("#link")
    visit.page.locator("#notice", has_text="replays").wait_for()
    pictures, fragment = visit.thumbnails(), urlsplit(visit.page.url).fragment
    again = Visit(browser, address, f"#{fragment}")
    again.until(max(pictures))
    replayed = again.thumbnails()
    assert again.page.locator(".pane-prompt").inner_text() == BLUE and again.page.input_value("#seed") == "7"
    assert {n: replayed[n] for n in pictures} == pictures
    again.calm()
    again.context.close()


@pytest.mark.parametrize("fragment", ["#stream=%%%", "#stream=e30", "#stream=" + "A" * 200_000])
def test_a_damaged_link_is_told_and_a_stream_begins_all_the_same(browser: Any, address: str, fragment: str) -> None:
    visit = Visit(browser, address, fragment)
    assert "damaged" in visit.page.locator("#notice").inner_text()
    visit.calm()
    visit.context.close()


def test_a_lost_connection_comes_back_and_no_chunk_is_missing(visit: Visit) -> None:
    visit.chunks(2)
    visit.lose()
    visit.page.locator("#connection[data-state=lost]").wait_for()
    visit.page.wait_for_timeout(1200)
    visit.page.fill("#prompt", BLUE)  # asked for while nobody hears it
    visit.page.click("#send")
    visit.regain()
    visit.page.locator("#connection[data-state=live]").wait_for()
    visit.receipt("prompt, keep")
    visit.chunks(3)
    assert sorted(visit.thumbnails()) == list(range(visit.chunk() + 1))
    assert visit.number("underruns") == "0", "a lost connection is told as such"


def test_two_tabs_do_not_disturb_each_other(visit: Visit, browser: Any, address: str) -> None:
    other = Visit(browser, address, context=visit.context)
    other.prompt(BLUE, "flush")
    assert visit.page.locator(".pane-prompt").inner_text() != BLUE
    other.close()
    visit.chunks(2)
    visit.calm()


def test_one_steers_with_letters_arrows_and_fingers_but_not_while_typing(browser: Any, steered: str) -> None:
    visit = Visit(browser, steered, f"#token={TOKEN}")
    page, note = visit.page, visit.page.locator("#steer-note")
    page.locator("h1").click()
    page.keyboard.down("d")
    page.keyboard.down("ArrowUp")
    note.filter(has_text="steer WD: chunk").wait_for()
    assert page.locator(".key[aria-pressed=true]").all_inner_texts() == ["W\nfaster", "D\nbank"]
    page.keyboard.up("d")
    page.keyboard.up("ArrowUp")
    note.filter(has_text="let go: chunk").wait_for()
    page.get_by_role("button", name="climb, key I").hover()
    page.mouse.down()
    note.filter(has_text="steer I: chunk").wait_for()
    page.mouse.up()
    note.filter(has_text="let go: chunk").wait_for()
    page.fill("#prompt", "")
    page.locator("#prompt").press_sequentially("sad")
    assert page.locator(".key[aria-pressed=true]").count() == 0
    visit.calm()
    visit.context.close()


def test_a_word_in_capitals_is_known_and_suggested(browser: Any, steered: str) -> None:
    visit = Visit(browser, steered, f"#token={TOKEN}")
    page, note = visit.page, visit.page.locator("#prompt-note")
    page.fill("#prompt", "helicopters")
    note.filter(has_text="Never seen in training: helicopters").wait_for()
    page.fill("#prompt", "fpv Flight over LAVA fields")
    note.filter(has_not_text="Never").wait_for(state="attached")
    page.fill("#prompt", "")
    page.locator("#prompt").press_sequentially("fp")
    assert page.locator("#words li").all_inner_texts() == ["FPV"]
    visit.context.close()


def test_a_token_is_told_by_the_address_and_stays_in_it(browser: Any, steered: str, tmp_path: Path) -> None:
    visit = Visit(browser, steered, f"#token={TOKEN}")
    visit.page.click("#record")
    visit.receipt("recording")
    visit.chunks(3)
    visit.page.click("#record")
    with visit.page.expect_download() as download:
        visit.page.click("#download")
    assert Path(download.value.path()).stat().st_size > 1000, "though a link cannot carry a token"
    visit.page.click("#link")
    visit.page.locator("#notice", has_text="replays").wait_for()
    assert TOKEN in visit.page.url and "stream=" in visit.page.url
    visit.calm()
    page = visit.context.new_page()
    page.goto(steered)
    page.locator("#notice", has_text="token").wait_for()
    visit.context.close()


def test_pause_and_speed(visit: Visit) -> None:
    visit.page.click("#pause")
    visit.page.get_by_role("button", name="Resume").wait_for()
    still = visit.pixels()
    visit.page.wait_for_timeout(700)
    assert visit.pixels() == still
    visit.page.click("#pause")
    visit.page.select_option("#speed", "2")
    visit.chunks(6)
    visit.page.wait_for_function("() => +document.querySelector('.n-fps').textContent > 11")


def test_the_keyboard_is_enough(visit: Visit) -> None:
    page, press = visit.page, visit.page.keyboard.press
    visit.chunks(3)
    press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    press("Enter")
    assert page.evaluate("document.activeElement.id") == "prompt"
    press("Control+A")
    page.keyboard.type(f"{BLUE} p")  # letters that are shortcuts elsewhere
    press("Enter")
    visit.receipt("prompt, keep")
    press("Escape")
    press("Escape")
    press("3")
    assert page.is_checked("[name=kind][value=flush]")
    press("p")
    page.get_by_role("button", name="Resume").wait_for()
    press("p")
    page.locator(".chunk-button[tabindex='0']").focus()
    press("ArrowLeft")
    press("ArrowLeft")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "one sees where one is"
    press("f")
    page.locator(".pane").nth(1).wait_for()
    press("x")
    page.wait_for_function("() => document.querySelectorAll('.pane').length === 1")
    press("?")
    page.locator("#shortcuts[open]").wait_for()
    press("Escape")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_window_needs_no_scrolling_to_the_side(browser: Any, address: str, scheme: str) -> None:
    options = {"viewport": {"width": 360, "height": 780}, "color_scheme": scheme, "has_touch": True, "is_mobile": True}
    visit = Visit(browser, address, **options)
    visit.page.click("#compare")
    visit.page.locator(".pane").nth(1).wait_for()
    visit.chunks(2, pane=1)
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 360
    ink, ground = visit.page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    dark = sum(map(int, re.findall(r"\d+", ground)[:3])) < 200
    assert dark == (scheme == "dark") and ink != ground
    visit.page.get_by_role("button", name="forks").first.tap()
    assert visit.page.locator("[data-tap=fork]").first.get_attribute("aria-pressed") == "true"
    visit.calm()
    visit.context.close()


def test_the_switch_of_colours_is_remembered(visit: Visit) -> None:
    for wanted in ("light", "dark"):
        visit.page.click("#theme")
        assert visit.page.evaluate("document.documentElement.dataset.theme") == wanted
    visit.page.reload()
    assert visit.page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_everything_that_can_be_used_has_a_name(visit: Visit) -> None:
    visit.chunks(2)
    nameless = [
        line for line in visit.page.locator("body").aria_snapshot().splitlines() if re.fullmatch(NAMELESS, line)
    ]
    assert nameless == []


NAMELESS = r"\s*- (button|link|textbox|combobox|checkbox|radio|spinbutton|img|meter|toolbar|group)(:| \[.*)?\s*"
