"""What comes from the Hub is whole, runs, and mistakes are one sentence each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import adastate
from adastate.main import main
from tests.support.hub_stand_in import Repository, StandIn

PROMPT = "flying east over a pale snow, slow, a red ball bounces"


@pytest.fixture(scope="module")
def published(kept_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a push sends, by its paths."""
    folder = tmp_path_factory.mktemp("seen") / "files"
    main(["weights", "push", str(kept_run), "anna/flyover", "--dry-run", str(folder)])
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def pushed(published: dict[str, bytes], hub: StandIn) -> StandIn:
    hub.repositories["anna/flyover"] = made = Repository(private=True)
    made.commits["0" * 40] = published
    return hub


def pull(*words: str | Path) -> None:
    main(["weights", "pull", *map(str, words)])


def test_what_comes_back_are_the_files_that_were_pushed(pushed: StandIn, tmp_path: Path) -> None:
    out = tmp_path / "theirs"
    pull("anna/flyover", out)
    assert {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()} == pushed.files(
        "anna/flyover"
    )
    main(["weights", "inspect", str(out)])


@pytest.mark.slow
def test_what_comes_back_is_a_run_folder(run: Path, pushed: StandIn, tmp_path: Path) -> None:
    out = tmp_path / "theirs"
    pull("anna/flyover", out)
    ours, theirs, named = (adastate.load(x, device="cpu") for x in (run, out, "anna/flyover"))
    videos = [next(m.stream(PROMPT, seconds=0.3, seed=5)).video for m in (ours, theirs, named)]
    assert torch.equal(videos[0], videos[1]) and torch.equal(videos[0], videos[2])


def test_a_transfer_that_breaks_off_goes_on_where_it_was(pushed: StandIn, tmp_path: Path) -> None:
    pushed.breaks = 2
    pull("anna/flyover", tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").read_bytes() == pushed.files("anna/flyover")["model.safetensors"]


def test_one_that_keeps_breaking_off_leaves_nothing_under_the_name_and_is_gone_on_with(
    pushed: StandIn, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    pushed.breaks = 1000
    with pytest.raises(SystemExit) as stop:
        pull("anna/flyover", out)
    told = str(stop.value.code)
    assert "broke off; run the same command again to resume" in told and "\n" not in told
    assert not out.exists()
    pushed.breaks = 0
    pull("anna/flyover", out)
    assert (out / "model.safetensors").read_bytes() == pushed.files("anna/flyover")["model.safetensors"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_other_bytes_than_the_hub_says(pushed: StandIn, tmp_path: Path) -> None:
    pushed.spoils = True
    with pytest.raises(SystemExit, match="has other bytes than the Hub reports: run the same command again"):
        pull("anna/flyover", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    pushed.spoils = False
    pull("anna/flyover", tmp_path / "out")


def test_some_files_of_a_repository_of_others(hub: StandIn, tmp_path: Path) -> None:
    hub.repositories["bert/student"] = made = Repository()
    made.commits["0" * 40] = {"a/student.pt": b"weights", "a/other.pt": b"others", "README.md": b"# theirs"}
    pull("bert/student", tmp_path / "out", "--include", "a/student.pt")
    assert [str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")] == ["a/student.pt"]
    with pytest.raises(SystemExit, match=r"bert/student has no file that fits '\*\.bin'"):
        pull("bert/student", tmp_path / "more", "--include", "*.bin")


def test_a_name_that_leads_out_of_the_folder(hub: StandIn, tmp_path: Path) -> None:
    hub.repositories["bert/evil"] = made = Repository()
    made.commits["0" * 40] = {"../../outside.json": b"{}"}
    with pytest.raises(SystemExit, match="leads out of its folder"):
        pull("bert/evil", tmp_path / "a/b/out")
    assert not (tmp_path / "outside.json").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["anna/none"], "has no repository anna/none, or it is private and your token may not read it: check the name"),
        (["anna/flyover", "--revision", "v9"], "anna/flyover has no revision 'v9': give a branch, a tag or a commit"),
        (["bert/gated"], "bert/gated requires you to accept its terms first, at"),
        (["flyover/"], "is not the name of a repository"),
    ],
)
def test_mistakes(pushed: StandIn, tmp_path: Path, words: list[str], sentence: str) -> None:
    pushed.repositories["bert/gated"] = Repository()
    pushed.gated.add("bert/gated")
    with pytest.raises(SystemExit) as stop:
        pull(words[0], tmp_path / "out", *words[1:])
    told = str(stop.value.code)
    assert sentence in told and "\n" not in told
    assert not (tmp_path / "out").exists()


def test_a_private_repository_without_a_token(pushed: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SystemExit, match="or it is private and your token may not read it"):
        pull("anna/flyover", tmp_path / "out")


def test_a_folder_that_is_there_is_kept(pushed: StandIn, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="exists; give another folder or --force"):
        pull("anna/flyover", out)
    assert (out / "mine.txt").read_text() == "mine" and pushed.asked == []
    with pytest.raises(SystemExit, match="out holds no weights, and --force replaces folders of weights alone"):
        pull("anna/flyover", out, "--force")
    assert (out / "mine.txt").read_text() == "mine" and pushed.asked == []
    (out / "student.safetensors").write_bytes(b"old")
    pull("anna/flyover", out, "--force")
    assert not (out / "mine.txt").exists() and (out / "README.md").is_file()
