"""Weights in 8 bits: how far they are off, that they are read like any other, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from adastate.main import main
from adastate.models.video_network import Size
from adastate.models.wan import DiT
from adastate.weights import WeightsError, header_facts, import_, load_network, open_weights, save_weights
from adastate.weights.eight_bit import GROUP, LEAST, MOST, ROOM, restored, rounded
from adastate.weights.files import read_header
from tests.support.tiny import normal, random_net

WIDE = Size(width=96, layers=1, heads=4, ffn=128, channels=4, text_width=16, text_tokens=4, time_embedding_dim=32)
STREAM = {"anchor": "state", "state_frames": 1}


@pytest.mark.parametrize("count", [1, 63, 64, 65, 300])
@pytest.mark.parametrize("size", [-30.0, -3.3, 0.0, 30.0])
def test_no_weight_is_off_by_more_than_half_a_step(count: int, size: float) -> None:
    weight = normal(count, seed=count) * 10**size
    whole, scales = rounded(weight)
    assert whole.shape == weight.shape and len(scales) == -(-count // GROUP)
    step = scales.float().repeat_interleave(GROUP)[:count]
    assert ((restored(whole, scales) - weight).abs() <= 0.5001 * step).all()
    largest = torch.nn.functional.pad(weight, (0, -count % GROUP)).view(-1, GROUP).abs().amax(1)
    assert (scales.float() <= largest / MOST * ROOM * (1 + 2**-8)).all()  # no step is wider than it has to be


def test_zeros_stay_zeros() -> None:
    assert not restored(*rounded(torch.zeros(3, 70))).any()


@pytest.fixture
def teacher(tmp_path: Path) -> DiT:
    net: DiT = random_net(WIDE)
    save_weights(net, tmp_path / "full.safetensors")
    import_(open_weights(tmp_path / "full.safetensors"), tmp_path / "teacher.safetensors", torch.int8)
    return net


def off(net: DiT, other: DiT) -> float:
    """Root mean square of what all weights are off, over that of the weights."""
    own, theirs = (torch.cat([p.detach().flatten() for p in n.parameters()]) for n in (net, other))
    return float((own - theirs).norm() / own.norm())


def near(net: DiT, away: float) -> DiT:
    """A network that has learnt on from `net`."""
    other: DiT = random_net(WIDE)
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        for i, p in enumerate(other.parameters()):
            p += away * p.std().nan_to_num() * normal(*p.shape, seed=i)
    return other


def test_a_quarter_of_the_bytes_and_a_hundredth_off(tmp_path: Path, teacher: DiT) -> None:
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("full", "teacher")]
    assert sizes[1] < 0.4 * sizes[0]  # of so small a network much is below LEAST
    back = load_network(WIDE, str(tmp_path / "teacher.safetensors"))
    assert 0 < off(teacher, back) < 0.01  # type: ignore[arg-type]
    x, t, text = normal(1, 2, 4, 4, 6), torch.tensor([500.0]), normal(1, 4, 16)
    with torch.no_grad():
        want, got = teacher(x, t, text), back(x, t, text)
    assert float((want - got).norm() / want.norm()) < 0.02


def test_differences_lose_less_the_nearer_a_network_is(tmp_path: Path, teacher: DiT) -> None:
    base = tmp_path / "teacher.safetensors"
    lost = {}
    for name, away in (("near", 0.03), ("far", 0.3)):
        student = near(teacher, away)
        save_weights(student, tmp_path / "plain.safetensors", stream=STREAM)
        out = tmp_path / f"{name}.safetensors"
        import_(open_weights(tmp_path / "plain.safetensors"), out, torch.int8, base=base)
        lost[name] = off(student, load_network(WIDE, str(out)))  # type: ignore[arg-type]
        assert header_facts(out)["stream"] == STREAM
        assert "differences from teacher.safetensors" in " ".join(open_weights(out).report.notes)
    assert lost["near"] < 0.1 * off(teacher, load_network(WIDE, str(base)))  # type: ignore[arg-type]
    assert lost["near"] < 0.3 * lost["far"]


def test_small_tensors_stay_exact(tmp_path: Path, teacher: DiT) -> None:
    back, own = open_weights(tmp_path / "teacher.safetensors"), teacher.state_dict()
    small = [name for name, tensor in own.items() if tensor.numel() < LEAST]
    assert len(small) > 20 and all(torch.equal(back.entries[name].read(), own[name]) for name in small)


def test_another_base_than_the_one_that_belongs_is_refused(tmp_path: Path, teacher: DiT) -> None:
    base, out = tmp_path / "teacher.safetensors", tmp_path / "student.safetensors"
    import_(open_weights(tmp_path / "full.safetensors"), out, torch.int8, base=base)
    kept = base.read_bytes()
    save_weights(near(teacher, 0.1), tmp_path / "other.safetensors")
    import_(open_weights(tmp_path / "other.safetensors"), base, torch.int8, force=True)
    with pytest.raises(WeightsError, match=r"another teacher\.safetensors than the one in its folder"):
        open_weights(out)
    base.unlink()
    with pytest.raises(WeightsError, match="is not in the same folder: copy it there"):
        open_weights(out)
    base.write_bytes(kept)
    open_weights(out).require()


def test_a_base_outside_the_folder_is_not_opened(tmp_path: Path, teacher: DiT) -> None:
    out = tmp_path / "sub" / "student.safetensors"
    out.parent.mkdir()
    with pytest.raises(WeightsError, match="copy it there first"):
        import_(open_weights(tmp_path / "full.safetensors"), out, torch.int8, base=tmp_path / "teacher.safetensors")
    raw = (tmp_path / "teacher.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"] = {"eight_bit": json.dumps({"group": GROUP, "base": "../full.safetensors"})}
    text = json.dumps(header).encode()
    (tmp_path / "sub" / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    with pytest.raises(WeightsError, match="outside its folder"):
        open_weights(tmp_path / "sub" / "x.safetensors")


def test_of_another_size_no_difference_is_taken(tmp_path: Path, teacher: DiT) -> None:
    save_weights(random_net(), tmp_path / "small.safetensors")
    with pytest.raises(WeightsError, match="holds another network"):
        import_(
            open_weights(tmp_path / "small.safetensors"), tmp_path / "x.safetensors", torch.int8,
            base=tmp_path / "teacher.safetensors",
        )  # fmt: skip
    assert not (tmp_path / "x.safetensors").exists()


def test_the_command_writes_and_tells_them(tmp_path: Path, teacher: DiT, capsys: pytest.CaptureFixture[str]) -> None:
    full, out = str(tmp_path / "full.safetensors"), tmp_path / "student.safetensors"
    base = ["--difference-from", str(tmp_path / "teacher.safetensors")]
    with pytest.raises(SystemExit, match="give --dtype int8"):
        main(["weights", "import", full, str(out), *base])
    main(["weights", "import", full, str(out), "--dtype", "int8", *base])
    assert "eight_bit" in read_header(out)
    main(["weights", "inspect", str(out)])
    assert "8 bits" in capsys.readouterr().out
    back = tmp_path / "back.safetensors"
    main(["weights", "import", str(out), str(back), "--dtype", "float32"])
    assert "eight_bit" not in read_header(back)
    assert off(teacher, load_network(WIDE, str(back))) < 1e-3  # type: ignore[arg-type]
