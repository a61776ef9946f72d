"""The example workflow through the HTTP API of a real ComfyUI, where one is at hand:

    ADASTATE_COMFYUI=/path/to/ComfyUI ADASTATE_COMFYUI_PYTHON=/path/to/its/python \\
        pytest -m slow tests/comfyui/test_real_comfyui.py

It runs on the processor. The Python needs what its requirements.txt and this project name.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
COMFYUI = os.environ.get("ADASTATE_COMFYUI", "")
WORKFLOW = json.loads((ROOT / "comfyui/example_workflows/flyover_api.json").read_text())

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not COMFYUI, reason="ADASTATE_COMFYUI names no checkout of ComfyUI"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    base, port = tmp_path_factory.mktemp("comfy"), free_port()
    for name in ("custom_nodes", "output", "temp", "user", "input", "models"):
        (base / name).mkdir()
    (base / "custom_nodes/adastate").symlink_to(ROOT / "comfyui")
    (base / "front/index.html").parent.mkdir()
    (base / "front/index.html").write_text("none is needed")
    python = os.environ.get("ADASTATE_COMFYUI_PYTHON", sys.executable)
    words = ["--cpu", "--port", str(port), "--base-directory", str(base), "--front-end-root", str(base / "front")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    log = (base / "log").open("w+")
    process = subprocess.Popen(
        [python, "main.py", *words, "--disable-api-nodes"], cwd=COMFYUI, env=environment, stdout=log, stderr=log
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            if process.poll() is not None:
                break
            try:
                asked(f"{url}/system_stats")
                break
            except OSError:
                time.sleep(0.5)
        log.flush()
        assert process.poll() is None, (base / "log").read_text()[-3000:]
        yield url
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def asked(url: str, content: Any = None) -> bytes:
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return bytes(answer.read())


def done(url: str, workflow: dict[str, Any]) -> dict[str, Any]:
    """What the history says of a workflow when it has ended."""
    number = json.loads(asked(f"{url}/prompt", {"prompt": workflow}))["prompt_id"]
    for _ in range(600):
        history = json.loads(asked(f"{url}/history/{number}"))
        if number in history:
            return dict(history[number])
        time.sleep(0.5)
    raise TimeoutError(f"{number} did not end")


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
