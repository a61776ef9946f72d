"""A run whose shards lie behind a password and a token: it trains and goes on, and leaves neither anywhere."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from adastate.config.run_folder import run_config

SECRETS = {"WHO": "joe:hunter22", "TOKEN_OF_MINE": "zebra-crossing-77", "BATCH": "2"}


class Handler(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        known = f"Basic {base64.b64encode(SECRETS['WHO'].encode()).decode()}"
        if self.headers.get("Authorization") != known or f"token={SECRETS['TOKEN_OF_MINE']}" not in self.path:
            return self.send_error(403)
        return super().do_GET()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.slow
def test_no_file_and_no_line_of_a_run_tells_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = (
        "from datamodules.tools.shards_command import main; main(['--world', 'plain', '--clips', '16', '--out', 's'])"
    )
    subprocess.run(
        [sys.executable, "-c", make], cwd=tmp_path, check=True, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "mine.yaml").write_text(
        "data:\n  class_path: datamodules.clips.ShardData\n  init_args:\n    want: video\n"
        "    batch: ${oc.decode:${oc.env:BATCH}}\n"
        f"    shards: http://${{oc.env:WHO}}@127.0.0.1:{server.server_port}/s/shard-000000.tar?token=${{oc.env:TOKEN_OF_MINE}}\n"
    )
    run = tmp_path / "run"
    files = ["conf/base.yaml", "conf/sizes/tiny.yaml", "conf/stages/teacher.yaml", str(tmp_path / "mine.yaml")]
    words = [word for file in files for word in ("--config", file)]

    def fit(*more: str, **changed: str) -> str:
        argv = [sys.executable, "-m", "adastate", "fit", *words, f"--run.dir={run}", *more]
        done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, **SECRETS, **changed})
        return done.stdout + done.stderr

    said = fit("--trainer.max_steps=1")
    said += fit("--trainer.max_steps=2", "--ckpt_path=auto", "--print_config")
    said += fit("--trainer.max_steps=2", "--ckpt_path=auto")
    assert "at iteration 1" in said
    refused = fit("--trainer.max_steps=3", "--ckpt_path=auto", TOKEN_OF_MINE="zebra-of-another-herd")
    assert "denies access (HTTP 403)" in refused
    server.shutdown()
    server.server_close()
    told = "".join(path.read_bytes().decode("latin1") for path in run.rglob("*") if path.is_file()) + said + refused
    assert "hunter" not in told and "zebra" not in told and base64.b64encode(b"joe:hunter22").decode() not in told
    assert "token=${oc.env:TOKEN_OF_MINE}" in (run / "teacher" / "config.yaml").read_text()
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    assert run_config(run, "teacher")["data"]["init_args"]["shards"].endswith("?token=zebra-crossing-77")
