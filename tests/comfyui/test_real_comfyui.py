"""The example workflow through the HTTP API and the page of a real ComfyUI, where one is at hand:

    ADASTATE_COMFYUI=/path/to/ComfyUI ADASTATE_COMFYUI_PYTHON=/path/to/its/python \\
        pytest -m slow tests/comfyui/test_real_comfyui.py

It runs on the processor. The Python needs what its requirements.txt and this project name.
"""

from __future__ import annotations

import importlib.util
import io
import json
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from PIL import Image

from tests.support.live_page import CHROMIUM, browsing
from tests.support.real_comfyui import COMFYUI, asked, done, has_page, real_comfyui

ROOT = Path(__file__).parents[2]
WORKFLOW = json.loads((ROOT / "comfyui/flyover_api.json").read_text())

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not COMFYUI, reason="ADASTATE_COMFYUI names no checkout of ComfyUI"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with real_comfyui(tmp_path_factory.mktemp("comfy")) as url:
        yield url


def test_the_nodes_are_there_with_their_types(server: str) -> None:
    told = json.loads(asked(f"{server}/object_info/AdaStateStream"))["AdaStateStream"]
    assert told["output"] == ["IMAGE", "VIDEO", "ADASTATE_STEPS", "FLOAT"]
    assert told["input"]["required"]["seconds"][0] == "FLOAT" and told["category"] == "adastate"


def test_the_example_workflow_makes_a_video_and_shows_the_states(server: str) -> None:
    found = done(server, WORKFLOW)
    assert found["status"]["status_str"] == "success", found["status"]
    (video,) = found["outputs"]["5"]["images"]
    content = asked(f"{server}/view?filename={video['filename']}&subfolder={video['subfolder']}&type={video['type']}")
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (32, 32, 8)
        assert sum(1 for _ in container.decode(stream)) >= 4 * 8
    (strip,) = found["outputs"]["4"]["images"]
    picture = Image.open(io.BytesIO(asked(f"{server}/view?filename={strip['filename']}&type={strip['type']}")))
    assert picture.width > 200


def test_a_mistake_is_told_before_anything_runs(server: str) -> None:
    wrong = json.loads(json.dumps(WORKFLOW))
    wrong["2"]["inputs"]["text"] = "0s: one\n4s: two\n3s: three"
    with pytest.raises(urllib.error.HTTPError) as error:
        asked(f"{server}/prompt", {"prompt": wrong})
    told = error.value.read().decode()
    assert error.value.code == 400 and "the times of the prompts must rise" in told


def test_a_mistake_of_a_node_is_one_sentence(server: str) -> None:
    wrong = json.loads(json.dumps(WORKFLOW))
    wrong["1"]["inputs"]["source"] = "/no/such/run"
    found = done(server, wrong)
    said = [m[1] for m in found["status"]["messages"] if m[0] == "execution_error"]
    assert said[0]["node_type"] == "AdaStateLoad" and "no weights at /no/such/run" in said[0]["exception_message"]


SHOWN = "type => (app.graph._nodes.find(node => node.type == type)?.imgs ?? []).map(picture => picture.naturalWidth)"


@pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="Playwright is not installed")
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")
def test_the_page_opens_the_template_runs_it_and_shows_video_and_states(server: str) -> None:
    if not has_page():
        pytest.skip("this ComfyUI's Python has no comfyui-frontend-package")
    with browsing() as browser:
        page, errors = browser.new_page(viewport={"width": 1600, "height": 1000}), list[str]()
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" and "404" not in m.text else None)
        page.goto(server)
        page.wait_for_function("() => !!(window.app?.graph && window.LiteGraph?.registered_node_types.AdaStateLoad)")
        page.get_by_text("Templates").first.click()
        page.get_by_role("dialog").get_by_text("adastate", exact=True).click()
        page.get_by_test_id("template-workflow-flyover").click()
        page.wait_for_function("() => app.graph._nodes.some(node => node.type == 'AdaStateState')")
        titles = {"AdaState: load", "AdaState: prompt schedule", "AdaState: stream", "AdaState: hidden state"}
        assert set(page.evaluate("() => app.graph._nodes.map(node => node.title)")) == {*titles, "Save Video"}
        sent = page.evaluate("async () => (await app.graphToPrompt()).output")
        for number, node in WORKFLOW.items():
            assert node["inputs"].items() <= sent[number]["inputs"].items()
        page.get_by_role("button", name="Run", exact=True).first.click()
        page.wait_for_function(f"() => ({SHOWN})('AdaStateState').some(width => width > 200)", timeout=120_000)
        assert page.evaluate(SHOWN, "AdaStateStream") == [512], "the newest frame, beside its state"
        assert errors == []
