"""What comes to the Hub, and what does not; mistakes are one sentence each."""

from __future__ import annotations

import errno
from pathlib import Path

import huggingface_hub
import pytest
import yaml

from adastate.hub.hub_client import HubError, hub_errors
from adastate.main import main
from adastate.models.video_network import Size
from adastate.weights import load_network
from tests.hub.conftest import change
from tests.support.hub_mixin_net import MixedIn
from tests.support.hub_stand_in import TOKEN, StandIn


def push(*words: str | Path) -> None:
    main(["weights", "push", *map(str, words)])


def told(capsys: pytest.CaptureFixture[str], stop: pytest.ExceptionInfo[SystemExit]) -> str:
    said = str(stop.value.code)
    assert "\n" not in said and said.startswith("adastate: "), said
    return said


def test_a_run_comes_as_one_commit_without_its_data_and_checkpoints(run: Path, hub: StandIn) -> None:
    push(run, "anna/flyover")
    assert sorted(hub.files("anna/flyover")) == [
        "README.md",
        "config.json",
        "distill/config.yaml",
        "evaluation.json",
        "images/1x-strip.png",
        "images/6x-strip.png",
        "model.safetensors",
        "stages.json",
    ]
    assert hub.files("anna/flyover")["model.safetensors"] == (run / "student.safetensors").read_bytes()
    assert [path for method, path in hub.asked if "/commit/" in path] == ["/api/models/anna/flyover/commit/main"]
    assert hub.repositories["anna/flyover"].private, "a repository that is made is not shown to all"


def test_public_and_a_branch(run: Path, hub: StandIn) -> None:
    push(run, "anna/open", "--public")
    assert not hub.repositories["anna/open"].private
    with pytest.raises(SystemExit, match="has no revision 'trial'"):
        push(run, "anna/open", "--revision", "trial")


def test_the_layout_is_that_of_pytorch_model_hub_mixin(run: Path, hub: StandIn) -> None:
    push(run, "anna/flyover")

    theirs = MixedIn.from_pretrained("anna/flyover").state_dict()
    ours = load_network(Size(), str(run)).state_dict()
    assert theirs.keys() == ours.keys() and all(theirs[name].equal(ours[name]) for name in ours)


def test_nothing_tells_of_this_machine_or_of_secrets(run: Path, tmp_path: Path, hub: StandIn) -> None:
    logger = {"class_path": "callbacks.CurveLogger", "init_args": {"api_key": "abcdefgh12345"}}
    change(run, lambda config: config["trainer"].update(logger=logger))
    change(run, lambda config: config["data"]["init_args"].update(file="/home/anna/prompts.txt"))
    push(run, "anna/flyover")
    for name, content in hub.files("anna/flyover").items():
        for word in (str(tmp_path), "/home/anna", "abcdefgh12345", TOKEN):
            assert word.encode() not in content, (name, word)
    published = yaml.safe_load(hub.files("anna/flyover")["distill/config.yaml"])
    assert published["data"]["init_args"]["file"] == "prompts.txt"


def test_a_dry_run_sends_nothing_and_asks_for_no_token(
    run: Path, hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    push(run, "anna/flyover", "--dry-run", tmp_path / "seen")
    assert (tmp_path / "seen/README.md").is_file() and hub.asked == []


@pytest.mark.parametrize(
    ("change", "repository", "sentence"),
    [
        ("no token", "anna/x", "requires a token to write to anna/x; create one with write permission"),
        ("a token that nobody knows", "anna/x", "rejected your token"),
        ("a token of somebody else", "bert/x", "your token may not write to bert/x"),
        ("a name that is none", "anna/x/y", "'anna/x/y' is not the name of a repository: it has the form owner/name"),
        ("a Hub that is ill", "anna/x", "answered 500; nothing was published; run the same command again"),
        ("a Hub that is not there", "anna/x", "cannot be reached"),
        ("offline", "anna/x", "HF_HUB_OFFLINE forbids access to the Hub"),
    ],
)
def test_mistakes(
    run: Path,
    hub: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: str,
    repository: str,
    sentence: str,
) -> None:
    if change == "no token":
        monkeypatch.delenv("HF_TOKEN")
    elif change == "a token that nobody knows":
        monkeypatch.setenv("HF_TOKEN", "hf_" + "other" * 5)
    elif change == "a Hub that is ill":
        hub.down = 500
    elif change == "a Hub that is not there":
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    elif change == "offline":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit) as stop:
        push(run, repository)
    assert sentence in told(capsys, stop)
    assert hub.repositories == {}


def test_a_source_that_is_none(tmp_path: Path, hub: StandIn, run: Path) -> None:
    with pytest.raises(SystemExit, match=r"has no student\.safetensors: give a run folder"):
        push(tmp_path, "anna/x")
    (run / "student.safetensors").write_bytes((run / "student.safetensors").read_bytes()[:-1] + b"?")
    with pytest.raises(SystemExit, match="is damaged"):
        push(run, "anna/x")
    assert hub.repositories == {}


def _by_xet(error: Exception) -> None:
    with hub_errors("anna/x", broken="again"):

        def upload_xet_files() -> None:
            raise error

        upload_xet_files()


def test_what_xet_raises_is_one_sentence_and_a_full_disk_is_none_of_it() -> None:
    for error in (ConnectionError("Network error:\n 404"), PermissionError("no right"), RuntimeError("Shard error")):
        with pytest.raises(HubError, match=r"^the transfer broke off \([\w: ]+\); again, with HF_HUB_DISABLE_XET=1"):
            _by_xet(error)
    with pytest.raises(OSError, match="No space left") as full:
        _by_xet(OSError(errno.ENOSPC, "No space left on device"))
    assert not isinstance(full.value, HubError)
