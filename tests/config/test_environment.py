"""Variables of the environment: used where a run is, named where it is saved, and resolved when it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from adastate.config import environment
from adastate.config.compose import compose
from adastate.runtime import secrets

SHARDS = "https://${oc.env:WHO}@host/a-${oc.env:PART}.tar?token=${oc.env:TOKEN_OF_MINE,none}"


def test_what_is_saved_names_the_variable_and_a_run_that_goes_on_resolves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "_values", {})
    for name, value in {"WHO": "joe:hunter22", "PART": "zebra-1", "TOKEN_OF_MINE": "zebra-2", "BATCH": "3"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "mine.yaml").write_text(
        f"run: {{dir: '{tmp_path}/${{oc.env:PART}}'}}\n"
        "data:\n  class_path: datamodules.clips.ShardData\n  init_args:\n"
        f"    shards: {SHARDS}\n    batch: ${{oc.decode:${{oc.env:BATCH}}}}\n"
    )
    files = [Path(f"conf/{name}.yaml") for name in ("base", "sizes/tiny", "stages/teacher")]
    config = compose([*files, tmp_path / "mine.yaml"])
    data = config.lightning["data"]["init_args"]
    assert data == {"shards": "https://joe:hunter22@host/a-zebra-1.tar?token=zebra-2", "batch": 3}
    saved = yaml.safe_dump(environment.with_texts_again(config.lightning, config.unresolved))
    assert "hunter22" not in saved and "zebra" not in saved
    assert "${oc.env:PART}/teacher" in saved, "what another value has brought with it"
    again = environment.with_set_variables(yaml.safe_load(saved))
    assert again["data"]["init_args"]["shards"] == data["shards"]
    assert again["trainer"]["default_root_dir"] == f"{tmp_path}/zebra-1/teacher"
    assert secrets.redacted(f"no file {data['shards']}") == "no file https://${oc.env:WHO}@host/" + (
        "a-${oc.env:PART}.tar?token=${oc.env:TOKEN_OF_MINE}"
    )
    monkeypatch.delenv("WHO")
    assert "${oc.env:WHO}" in environment.with_set_variables(yaml.safe_load(saved))["data"]["init_args"]["shards"]


def test_a_secret_that_was_written_out_is_not_saved() -> None:
    node = {"data": {"init_args": {"shards": "https://u:hunter22@h/a.tar?token=abc&rev=1"}}, "n": [1, None]}
    assert environment.with_texts_again(node, {}) == {
        "data": {"init_args": {"shards": "https://***@h/a.tar?token=***&rev=1"}},
        "n": [1, None],
    }
