from __future__ import annotations

import pickle
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch

from adastate.types import Batch
from datamodules.prompts import BatchStream, EpochShuffle, PromptData, read_prompts
from datamodules.worlds.flight.flight_clips import flight_prompts
from datamodules.worlds.flyover import Kind, flight
from datamodules.worlds.world_clips import world_batch


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"prompt {i}\n\n" for i in range(7)), encoding="utf-8")
    return path


def take(batches: Iterator[Batch], count: int) -> list[tuple[int, str]]:
    """(global sample number, prompt) of the rows of `count` batches."""
    return [row for b in islice(batches, count) for row in zip(b.index.tolist(), b.prompts, strict=True)]


def test_every_epoch_holds_every_item_once_in_an_order_of_its_own() -> None:
    order = EpochShuffle([5, 1, 7, 3], seed=3, mix=2)
    epochs = [[order[16 * e + i] for i in range(16)] for e in range(3)]
    assert all(sorted(epoch) == list(range(16)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    again = pickle.loads(pickle.dumps(order))
    assert [again[i] for i in range(48)] == [n for epoch in epochs for n in epoch]
    assert [EpochShuffle([5, 1, 7, 3], 4, 2)[i] for i in range(16)] != epochs[0]


def test_few_files_are_open_at_a_time() -> None:
    order = EpochShuffle([10] * 20, seed=0, mix=4)
    files = [order[i] // 10 for i in range(200)]
    for first in range(0, 200, 40):
        assert len(set(files[first : first + 40])) == 4
    assert len(set(files[:10])) > 1  # and those are mixed


@pytest.mark.parametrize("world", [2, 3])
def test_the_global_order_does_not_depend_on_the_number_of_processes(file: Path, world: int) -> None:
    for source in (str(file), None):
        alone = take(iter(PromptData(source, batch=6, seed=1).batches()), 5)
        ranks = [iter(PromptData(source, batch=6 // world, seed=1).batches(r, world)) for r in range(world)]
        shared = [row for _ in range(5) for rank in ranks for row in take(rank, 1)]
        assert shared == alone
        assert [number for number, _ in shared] == list(range(30))


def test_loaders_keep_the_order_through_workers_and_epochs(file: Path) -> None:
    alone = take(iter(PromptData(str(file), batch=2).batches()), 9)
    for workers in (0, 2):
        loader = PromptData(str(file), batch=2, workers=workers).train_dataloader()
        assert [row for _ in range(3) for row in take(iter(loader), 3)] == alone  # three epochs of three batches


def test_a_loader_goes_on_from_the_first_sample_that_was_not_consumed(file: Path) -> None:
    data = PromptData(str(file), batch=3)
    whole = take(iter(data.batches()), 8)
    state = {"position": whole[3 * 5][0]}
    other = data.batches()
    other.load_state_dict(state)
    assert take(iter(other), 3) == whole[15:]
    half = data.batches()
    take(iter(half), 5)
    other.load_state_dict(half.state_dict())
    assert take(iter(other), 3) == whole[15:]


def test_a_file_gives_each_prompt_once_an_epoch(file: Path) -> None:
    rows = take(iter(PromptData(str(file), batch=7).batches()), 2)
    assert sorted(prompt for _, prompt in rows[:7]) == [f"prompt {i}" for i in range(7)]
    assert {p for _, p in rows[7:]} == {p for _, p in rows[:7]} and rows[7:] != rows[:7]


def test_without_a_file_the_world_speaks() -> None:
    batch = next(iter(PromptData(batch=4, world_seed=5).train_dataloader()))
    assert batch.prompts == [flight(5, i).caption for i in range(4)]
    assert batch.video is None
    assert torch.equal(batch.index, torch.arange(4))


def test_lines_are_prompts_and_blank_ones_are_not(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes("\ufeffa b\r\n\r\n  \n caf\u00e9\u2028two \n".encode())
    assert read_prompts(path) == ["a b", "caf\u00e9\u2028two"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "there is no file of prompts .*one prompt per line"),
        (b" \n\n", "holds no prompt"),
        (b"caf\x01\xe9\n", "not a text file: save it as UTF-8"),
    ],
)
def test_files_without_prompts_are_refused(tmp_path: Path, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / "p.txt").write_bytes(content)
    with pytest.raises((FileNotFoundError, ValueError), match=says):
        PromptData(str(tmp_path / "p.txt"))


def test_a_rank_lies_within_the_global_batch() -> None:
    with pytest.raises(ValueError, match="rank 1 with a batch of 4 does not fit into a global batch of 6"):
        BatchStream(lambda numbers: Batch(torch.tensor(numbers), []), 4, 6, rank=1)


def test_pairs_are_the_same_flight_in_another_direction() -> None:
    plain, paired = PromptData(batch=16), PromptData(batch=16, pairs=True)
    a, b = (next(iter(data.batches())) for data in (plain, paired))
    assert a.prompts == b.prompts and a.index.tolist() == b.index.tolist() and not a.next_prompts
    assert len(b.next_prompts) == 16 and all(one != other for one, other in zip(b.prompts, b.next_prompts, strict=True))
    for i, caption in enumerate(b.next_prompts):
        first = flight(0, i)
        assert first.palette in caption and first.mover in caption and f"{first.heading}," not in caption


def test_two_files_go_line_by_line(tmp_path: Path, file: Path) -> None:
    other = tmp_path / "next.txt"
    other.write_text("".join(f"then {i}\n" for i in range(7)), encoding="utf-8")
    batches = islice(PromptData(str(file), batch=4, next_file=str(other)).batches(), 4)
    for batch in batches:
        numbers = [p.removeprefix("prompt ") for p in batch.prompts]
        assert batch.next_prompts == [f"then {n}" for n in numbers]
    other.write_text("one\n")
    with pytest.raises(ValueError, match=r"has 1 prompts, and .* 7: line by line"):
        PromptData(str(file), next_file=str(other))
    with pytest.raises(ValueError, match="give a next_file"):
        PromptData(str(file), pairs=True)


def test_prompts_of_flights_are_steered_for_as_long_as_their_rollout() -> None:
    short, long = (PromptData(batch=6, world_seed=3, kind="flight", frames=n) for n in (7, 28))
    (a,), (b,) = (list(islice(data.batches(), 1)) for data in (short, long))
    assert a.actions is not None and b.actions is not None and a.prompts == b.prompts
    assert a.actions.shape == (6, 7, 8) and torch.equal(b.actions[:, :7], a.actions)
    assert torch.equal(b.actions, flight_prompts(3, range(6), 28).actions)  # type: ignore[arg-type]
    assert PromptData(kind="flight").identity() != PromptData().identity()
    with pytest.raises(ValueError, match="actions of 0 latent frames"):
        PromptData(kind="flight", frames=0)


def test_actions_do_not_depend_on_the_number_of_processes() -> None:
    alone = list(islice(PromptData(batch=6, kind="flight").batches(), 2))
    ranks = [list(islice(PromptData(batch=3, kind="flight").batches(r, 2), 2)) for r in range(2)]
    for k, whole in enumerate(alone):
        parts = [rank[k].actions for rank in ranks]
        assert torch.equal(torch.cat([p for p in parts if p is not None]), whole.actions)  # type: ignore[arg-type]


def test_a_file_s_prompts_are_steered_too_where_the_world_can_be(file: Path) -> None:
    (batch,) = islice(PromptData(str(file), batch=5, kind="flight", frames=4).batches(), 1)
    assert batch.actions is not None and batch.actions.shape == (5, 4, 8)
    assert all(prompt.startswith("prompt ") for prompt in batch.prompts)
    (plain,) = islice(PromptData(str(file), batch=5).batches(), 1)
    assert plain.actions is None and plain.prompts == batch.prompts


@pytest.mark.parametrize("kind", ["journey", "fog", "mist", "flight"])
def test_every_world_has_prompts_and_what_they_turn_to(kind: Kind) -> None:
    (batch,) = islice(PromptData(batch=16, pairs=True, kind=kind).batches(), 1)
    assert batch.prompts == world_batch(0, range(0, 32, 2) if kind == "flight" else range(16), 0, kind).prompts
    assert all(one != other for one, other in zip(batch.prompts, batch.next_prompts, strict=True))
