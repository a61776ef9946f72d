"""A real ComfyUI on the processor, with the node pack in it, and what one asks it over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
COMFYUI = os.environ.get("ADASTATE_COMFYUI", "")
PYTHON = os.environ.get("ADASTATE_COMFYUI_PYTHON", sys.executable)


def has_page() -> bool:
    """Whether ComfyUI's Python has its page, which is a package of its own."""
    return subprocess.run([PYTHON, "-c", "import comfyui_frontend_package"], capture_output=True).returncode == 0


@contextmanager
def real_comfyui(base: Path) -> Iterator[str]:
    """Its address; what it writes lies in the folder `base`."""
    port = free_port()
    for name in ("custom_nodes", "output", "temp", "user", "input", "models"):
        (base / name).mkdir()
    (base / "custom_nodes/adastate").symlink_to(ROOT / "comfyui")
    words = ["--cpu", "--port", str(port), "--base-directory", str(base), "--disable-api-nodes"]
    if not has_page():
        (base / "front").mkdir()
        (base / "front/index.html").write_text("none is needed")
        words += ["--front-end-root", str(base / "front")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    log = (base / "log").open("w+")
    process = subprocess.Popen([PYTHON, "main.py", *words], cwd=COMFYUI, env=environment, stdout=log, stderr=log)
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
