"""conf/sizes/: what each file makes, counted without memory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from adastate.config.compose import compose
from adastate.config.world_words import vocabulary, words
from adastate.encoders import ResidualCodec
from adastate.models.video_network import Size
from adastate.models.wan import DiT
from adastate.stream import StreamSpec
from datamodules.worlds.flight.camera_path import KEYS, PICTURES
from datamodules.worlds.flight.flight_clips import flight_prompts
from datamodules.worlds.world_clips import frame_size

CONF = Path(__file__).parents[1] / "conf"
OVER = {"wan_14b": "wan_1_3b"}
"""Sizes that are layered over another one."""

COUNTS = {
    "tiny": (None, None),
    "flight": (6_958_208,) * 2,
    "wan_1_3b": (1_418_996_800,) * 2,
    "wan_14b": (1_418_996_800, 14_288_491_584),
    "wan22_5b": (4_999_787_712,) * 2,
}
"""Parameters of student and teacher."""


def variables(name: str) -> dict[str, Any]:
    layers = [CONF / "sizes" / f"{n}.yaml" for n in (OVER.get(name), name) if n]
    return compose([CONF / "base.yaml", *layers]).variables


def count(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def meta(size: Size) -> DiT:
    with torch.device("meta"):
        return DiT(size)


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONF / "sizes").glob("*.yaml")))
def test_every_size_builds_and_counts(name: str) -> None:
    found = variables(name)
    for size, wanted in zip((found["size"], found["teacher_size"]), COUNTS[name], strict=True):
        assert count(meta(Size(**size))) == (wanted or count(DiT(Size())))
    spec = StreamSpec(**found["stream"])
    assert spec.chunks(found["rollout"]["frames"])
    assert found["size"]["channels"] == {"flight": 32, "wan22_5b": 48}.get(name, 16)
    assert found["latent_size"][0] % 2 == found["latent_size"][1] % 2 == 0


def test_the_size_of_the_flight_world_fits_it() -> None:
    found = variables("flight")
    codec = ResidualCodec(**{**found["codec"]["init_args"], "weights": None})
    assert found["run"]["world"] == "flight" and found["size"]["actions"] == len(KEYS)
    assert codec.channels == found["size"]["channels"] and codec.scale * found["latent_size"][0] == frame_size("flight")
    assert codec.video_frames(1) == PICTURES and codec.video_frames(found["rollout"]["frames"]) == 21
    told = set(vocabulary("flight"))
    assert all(set(words(prompt)) <= told for prompt in found["preview"]["prompts"])
    longest = max(len(words(flight_prompts(0, [i], 1).prompts[0])) for i in range(300))
    assert longest <= found["text"]["init_args"]["tokens"] == found["size"]["text_tokens"]


@pytest.mark.parametrize("name", ["wan_1_3b", "wan_14b"])
def test_wan_sizes_fit_their_encoders_and_negative_prompt(name: str) -> None:
    found = variables(name)
    codec, text, rollout = found["codec"], found["text"], found["rollout"]
    assert (codec["class_path"], text["class_path"]) == ("adastate.encoders.WanVAE", "adastate.encoders.UMT5")
    assert codec["init_args"]["pretrained"] == text["init_args"]["pretrained"]
    assert rollout["video_frames"] == 4 * rollout["frames"] - 3 == 81
    assert (CONF.parent / found["teacher"]["negative_prompt"]).is_file()


@pytest.mark.parametrize(
    ("name", "heads", "layers", "ffn"), [("wan_1_3b", 12, 30, 8960), ("wan_14b", 40, 40, 13824)], ids=["1.3B", "14B"]
)
def test_diffusers_counts_the_same(name: str, heads: int, layers: int, ffn: int) -> None:
    """With the numbers of the published transformer/config.json."""
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        theirs = WanTransformer3DModel(
            num_attention_heads=heads, attention_head_dim=128, in_channels=16, out_channels=16, text_dim=4096,
            freq_dim=256, ffn_dim=ffn, num_layers=layers, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
            eps=1e-6, patch_size=(1, 2, 2),
        )  # fmt: skip
    assert count(theirs) == COUNTS[name][1] == count(meta(Size(**variables(name)["teacher_size"])))


def test_the_codec_that_stands_in_is_layered_over_a_size() -> None:
    layers = [CONF / name for name in ("base.yaml", "sizes/wan_1_3b.yaml", "codecs/taehv.yaml")]
    codec = compose(layers).variables["codec"]
    assert codec == {"class_path": "adastate.encoders.TAEHV", "init_args": {"weights": "weights/taew2_1.pth"}}


def test_a_critic_beside_the_larger_teacher_is_small_or_large_as_the_docs_show_it(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (CONF.parent / "docs/guide/wan.md").read_text(), re.S)
    (tmp_path / "critic.yaml").write_text(block)
    names = ("base.yaml", "sizes/wan_1_3b.yaml", "sizes/wan_14b.yaml", "stages/distill.yaml")
    for more, width, weights in (([], 1536, "1.3B"), ([tmp_path / "critic.yaml"], 5120, "14B")):
        nets = compose([*(CONF / n for n in names), *more]).lightning["model"]["init_args"]
        shown = {name: nets[name]["init_args"]["size"]["width"] for name in ("teacher", "student", "critic")}
        assert shown == {"teacher": 5120, "student": 1536, "critic": width}
        assert weights in nets["critic"]["init_args"]["weights"] and "14B" in nets["teacher"]["init_args"]["weights"]


def test_the_critic_starts_from_the_teacher_of_its_size() -> None:
    for size in ("tiny", "wan_1_3b"):
        names = ("base.yaml", f"sizes/{size}.yaml", "stages/distill.yaml")
        nets = compose([CONF / n for n in names], ["teacher.weights=mine"]).lightning["model"]["init_args"]
        assert [nets[name]["init_args"]["weights"] for name in ("teacher", "critic")] == ["mine", "mine"]
