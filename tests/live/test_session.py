"""Sessions are exact: whatever is kept, forked or rolled back goes on bit for bit as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from adastate.config import systems
from adastate.config.schema import ConfigError
from adastate.live.model import LiveModel
from adastate.live.session import Session
from adastate.live.snapshot import Snapshot
from adastate.live.step import Step
from tests.live.conftest import EVERY, live_model
from tests.support.tiny import SHAPE, normal

Make = Callable[..., Session]

CONTROLS: dict[int, list[Mapping[str, Any]]] = {
    3: [{"text": "a fast snow"}],
    5: [{"keys": "a"}],
    8: [{"text": "lava", "kind": "recache"}, {"keys": "wd"}],
    11: [{"text": "a plain", "kind": "flush"}],
    14: [{"text": "north", "kind": "cut"}, {"keys": ""}],
    17: [{"text": "a red ball", "anchor": "reset"}],
}


def control(session: Session, at: int) -> None:
    """The controls of a chunk, as far as this stream knows them; every twenty chunks they come again."""
    for told in CONTROLS.get(at % 20, []):
        if "keys" in told:
            session.act(told["keys"])
            continue
        try:
            session.prompt(**told)
        except ValueError:
            session.prompt(told["text"])


def play(session: Session, until: int) -> list[Step]:
    steps = []
    while session.chunk < until:
        control(session, session.chunk)
        steps.append(session.step())
    return steps


def same(a: Step, b: Step) -> bool:
    hidden = a.state is b.state is None or torch.equal(a.state, b.state)  # type: ignore[arg-type]
    return torch.equal(a.video, b.video) and hidden and (a.chunk, a.prompt, a.keys) == (b.chunk, b.prompt, b.keys)


@pytest.mark.parametrize("system", EVERY)
def test_kept_forked_and_rolled_back_streams_go_on_bit_for_bit(session: Make, tmp_path: Any, system: str) -> None:
    whole = play(session(system=system), 24)
    assert len({step.video.numpy().tobytes() for step in whole}) == 24, "no two chunks are alike"
    other = session(system=system, history=4)
    assert all(map(same, play(other, 12), whole))
    kept, twin = other.snapshot(), other.fork()
    file = kept.save(tmp_path / "kept.safetensors")
    ahead = play(other, 24)
    assert all(map(same, ahead, whole[12:]))
    other.rollback(4)
    assert all(map(same, play(other, 24), whole[20:]))
    for way in (kept, Snapshot.load(file)):
        other.restore(way)
        assert other.chunk == way.chunk == 12 and not other.history
        assert all(map(same, play(other, 24), whole[12:]))
    assert all(map(same, play(twin, 24), whole[12:])), "the fork has stood still meanwhile"


@pytest.mark.slow
@pytest.mark.parametrize("system", [None, *systems.system_names()])
def test_two_hundred_chunks(session: Make, tmp_path: Any, system: str) -> None:
    whole = play(session(system=system), 200)
    other = session(system=system, history=8)
    for at in (40, 90, 150):
        play(other, at)
        other.restore(Snapshot.load(other.snapshot().save(tmp_path / f"{at}.safetensors")))
        other = other.fork()
        play(other, at + 8)
        other.rollback(to=at)
    assert all(map(same, play(other, 200), whole[150:]))


def test_a_fork_takes_another_way(session: Make) -> None:
    one = session()
    play(one, 6)
    two = one.fork()
    two.prompt("lava", kind="flush")
    two.act("d")
    pairs = [(one.step(), two.step()) for _ in range(6)]
    assert not any(torch.equal(a.video, b.video) for a, b in pairs)
    two.rollback(to=6)
    one.rollback(to=6)
    assert same(one.step(), two.step()), "the history is that of both"


def test_the_script_of_a_session_makes_it_again(session: Make) -> None:
    first = session()
    whole = play(first, 20)
    first.rollback(to=18)
    assert [entry["chunk"] for entry in first.script] == [3, 5, 8, 8, 11, 14, 14, 17]
    again = session(script=first.script)
    assert all(same(again.step(), step) for step in whole) and again.script == first.script
    early = session(script=first.script)
    play_on = [early.step() for _ in range(5)]
    twin = early.fork()
    assert all(map(same, play_on, whole)) and all(same(twin.step(), step) for step in whole[5:])
    early.rollback(to=2)
    assert early.script == [] and all(same(early.step(), step) for step in whole[2:]), "what is to come is told again"


def test_a_control_takes_effect_in_the_next_chunk_and_has_a_receipt(session: Make) -> None:
    one, two = session(), session()
    play(one, 2), play(two, 2)
    numbers = [two.prompt("lava"), two.prompt("snow"), two.act("a")]
    plain, turned = one.step(), two.step()
    assert not torch.equal(plain.video, turned.video) and (turned.prompt, turned.keys) == ("snow", "a")
    assert [(r.number, r.kind, r.chunk) for r in turned.receipts] == [
        (numbers[0], "prompt", 2), (numbers[1], "prompt", 2), (numbers[2], "act", 2),
    ]  # fmt: skip
    assert all(r.seconds > 0 for r in turned.receipts) and not two.step().receipts
    assert [entry.get("text") for entry in two.script] == ["snow", None], "of two prompts for one chunk the later one"


def test_all_seeds_and_systems_have_a_noise_of_their_own_and_share_it(session: Make) -> None:
    made = [session(seed=seed).step().video for seed in (0, 1, 0)]
    assert torch.equal(made[0], made[2]) and not torch.equal(made[0], made[1])
    first, second = session(system="longlive"), session(system="reward_forcing")
    assert torch.equal(first.step().video, second.step().video), "before there is a past, their anchors do not differ"


def test_what_is_given_stands_before_the_first_chunk(model: LiveModel) -> None:
    given = normal(1, 1, *SHAPE)
    one, plain = Session(model, "snow", given=given), Session(model, "snow")
    first, bare = one.step(), plain.step()
    assert len(first.video) == 2 * len(bare.video) and not torch.equal(first.video[-1], bare.video[-1])
    assert one.chunk == 1 and len(one.step().video) == len(bare.video)
    one.rollback(to=0)
    assert same(one.step(), first)


@pytest.mark.parametrize("system", EVERY)
def test_it_never_holds_more_than_is_known_beforehand(model: LiveModel, session: Make, system: str | None) -> None:
    one, most = session(system=system, history=3), model.session_bytes(system, 3)
    held = []
    for chunk in range(60):
        if chunk % 7 == 3 and system != "causvid":
            one.act("a" if chunk % 2 else "")
        one.step()
        held.append(one.bytes)
    actions = 4 * (4 * (model.actions + 1) * one.spec.chunk_frames * 64)
    assert max(held) <= most and (max(held[40:]) >= most - actions or one.spec.restart_frames)
    one.close()
    assert one.bytes < most / 20


def test_attention_is_measured_where_it_is_asked_for(session: Make) -> None:
    one, two = session(), session()
    one.measure_attention = True
    measured = play(one, 6)
    assert all(map(same, measured, play(two, 6))), "and changes nothing"
    assert all(sum(step.attention.values()) == pytest.approx(1, abs=1e-4) for step in measured)
    assert set(measured[-1].attention) == {"state", "past", "own"} and min(measured[-1].attention.values()) > 0
    assert not two.step().attention


def test_a_chunk_that_fails_costs_nothing(session: Make, monkeypatch: Any) -> None:
    one, two = session(), session()
    play(one, 4), play(two, 4)
    two.prompt("lava")

    def fails(*_: Any) -> Tensor:
        raise RuntimeError("no memory")

    with monkeypatch.context() as broken:
        broken.setattr(two.model.codec, "decode", fails)
        with pytest.raises(RuntimeError, match="no memory"):
            two.step()
    assert two.chunk == 4
    one.prompt("lava")
    assert all(map(same, play(one, 9), play(two, 9))), "the control has waited"


def test_it_takes_up_no_more_for_its_age(session: Make) -> None:
    one = session(history=0)
    for _ in range(20):
        one.act("a")
        one.step()
    early = one.bytes
    for chunk in range(60):
        one.act("ad"[chunk % 2])
        one.step()
    assert one.bytes == early


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda s: s.prompt(" "), "a prompt is a non-empty text, not ' '"),
        (lambda s: s.prompt(None), "a prompt is a non-empty text, not None"),
        (lambda s: s.prompt("a", kind="melt"), "no kind of switch 'melt'; the kinds are keep, recache, flush, cut"),
        (lambda s: s.prompt("a", anchor="drop"), "anchor is keep or reset, not 'drop'"),
        (lambda s: s.act("x"), "asks for 'x': actions are straight, left"),
        (lambda s: s.act("i"), "this network is steered by 4 actions, w, a, s, d, and not by i"),
        (lambda s: s.act(3), "actions are a text"),
        (lambda s: s.rollback(9), "can roll back to chunk 0 at most, not to chunk -7"),
        (lambda s: s.rollback(to=7), "not to chunk 7"),
        (lambda s: s.rollback(), "give exactly one of them"),
        (lambda s: s.close() or s.step(), "this session is closed"),
    ],
)
def test_what_cannot_be_is_told(session: Make, wrong: Callable[[Session], Any], sentence: str) -> None:
    one, two = session(), session()
    play(one, 2), play(two, 2)
    with pytest.raises(ValueError, match=sentence.replace("(", "\\(")):
        wrong(one)
    if sentence != "this session is closed":
        assert same(one.step(), two.step()), "and nothing is changed"


def test_what_cannot_be_opened(model: LiveModel, session: Make) -> None:
    with pytest.raises(ConfigError, match=r"no system '\.\./x'; there are adastate"):
        session(system="../x")
    with pytest.raises(ValueError, match="a control is a prompt or an act, not 'sing'"):
        session(script=[{"chunk": 1, "kind": "sing"}])
    for chunk in (None, -1, "2", True, 1.5):
        with pytest.raises(ValueError, match="a control of a script has the number of its chunk"):
            session(script=[{"chunk": chunk, "kind": "act", "keys": ""}])
    with pytest.raises(ValueError, match="history is -1"):
        session(history=-1)
    with pytest.raises(ValueError, match="this network cannot be steered"):
        Session(live_model(), "snow").act("a")
    with pytest.raises(ValueError, match="use switch 'keep'"):
        session(system="rolling_forcing").prompt("snow", kind="recache")
    with pytest.raises(ValueError, match="keeps every frame"):
        live_model(past_frames=None, warmup="growing").session_bytes()


def test_a_system_with_longer_time_may_come_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its positions reach beyond the table that the first session's passes have been made with."""
    model = live_model(chunk_frames=1, past_frames=3)
    for net in (model.student.net, model.student.ema.net):
        monkeypatch.setattr(net, "size", replace(net.size, rope_max_frames=40))
    first = Session(model, "snow")
    first.step()
    longer = Session(model, "snow", system="rolling_sink", history=0)
    assert [longer.step() for _ in range(60)][-1].chunk == 59 and first.step().chunk == 1


def test_one_chunk_at_a_time(session: Make) -> None:
    one = session()
    one.requests()
    for again in (one.requests, one.snapshot, one.fork, lambda: one.rollback(1)):
        with pytest.raises(RuntimeError, match="is being generated"):
            again()
    one.undo()
    assert one.step().chunk == 0
