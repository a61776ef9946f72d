import html
import json
import re
from pathlib import Path

from callbacks import Rollouts
from callbacks.previews.gallery import INDEX, write_gallery


def links(page: Path) -> list[str]:
    return re.findall(r'(?:src|href)="([^"#]+)"', page.read_text())


def test_every_link_is_relative_and_exists_and_every_file_is_linked(fit, watched):
    _, run = fit(watched(), Rollouts(["a <script> & more", "b"], every=100, long=2), steps=1)
    page = run / "gallery.html"
    linked = set(links(page))
    assert all((run / link).is_file() and not link.startswith(("/", "http", "file")) for link in linked)
    made = {str(p.relative_to(run)) for d in ("videos", "strips", "figures") for p in (run / d).iterdir()}
    assert linked == made and len(made) == 3 * (2 * 2 + 1 + 2)
    text = page.read_text()
    assert "<video" in text and "loop muted autoplay" in text and "prefers-color-scheme: dark" in text
    assert "a &lt;script&gt; &amp; more" in text and "<script" not in text


def test_newest_comes_first_and_only_that_plays(fit, watched):
    _, run = fit(watched(), Rollouts(["a"], every=100, long=0), steps=2)
    text = (run / "gallery.html").read_text()
    assert text.index('id="i2" open') < text.index('id="i0">')
    assert text[: text.index('id="i0"')].count("autoplay") == 2 == text.count("autoplay")


def entry(iteration: int, video: str, prompt: str = "p") -> str:
    return json.dumps(
        {"iteration": iteration, "horizon": 1, "frames": 6, "seed": 0, "prompts": [prompt],
         "videos": [video], "states": [], "strips": [], "figures": []}
    )  # fmt: skip


def test_missing_files_half_lines_and_repeated_iterations_are_survived(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"x")
    lines = [entry(1, "videos/a.mp4", "old"), entry(1, "videos/a.mp4", "new"), entry(2, "videos/gone.mp4"), '{"iter']
    (tmp_path / INDEX).write_text("\n".join(lines))
    page = write_gallery(tmp_path)
    assert links(page) == ["videos/a.mp4"]
    assert "new" in page.read_text() and "old" not in page.read_text()


def test_a_hostile_prompt_and_a_hostile_name_stay_text(tmp_path):
    run = tmp_path / "a<b>" / "run&'\""
    (run / "videos").mkdir(parents=True)
    (run / "videos" / "a.mp4").write_bytes(b"x")
    prompt = '</figcaption><img src=x onerror="alert(1)">{{ 7 * 191 }}\'"&amp;'
    (run / INDEX).write_text(entry(1, "videos/a.mp4", prompt))
    text = write_gallery(run).read_text()
    assert "<img" not in text and "<b>" not in text and "1337" not in text
    assert prompt in html.unescape(text) and "a<b> / run&'\"" in html.unescape(text)


def test_a_run_without_previews_gets_a_page_that_says_so(tmp_path):
    assert "No preview yet" in write_gallery(tmp_path).read_text()
