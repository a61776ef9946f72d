"""What a call of the pipeline may not say is told in a sentence, before anything is made."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install -e '.[wan]'")

from adastate.diffusers.call_checks import changes_of, check_call, check_options

CALL: dict[str, Any] = {
    "prompt": "a ball", "prompt_embeds": None, "seconds": 1, "num_frames": None, "output_type": "np", "seed": 0,
    "generator": None,
}  # fmt: skip
SHAPE = torch.Size((1, 16, 1, 8, 8))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"prompt": None}, "there is no prompt: give prompt, or prompt_embeds"),
        ({"prompt": []}, "there is no prompt in the list: give at least one"),
        ({"prompt": 3}, "a prompt is a text, or a list of texts, and not 3"),
        ({"prompt": None, "prompt_embeds": 3}, "prompt_embeds is a tensor [B, Lt, text_dim]"),
        ({"prompt_embeds": torch.zeros(1, 4, 8)}, "give prompt or prompt_embeds, and not both"),
        ({"seconds": 4, "num_frames": 3}, "seconds and num_frames both give the length"),
        ({"seconds": None, "num_frames": 0}, "num_frames is 0: give at least 1"),
        ({"output_type": "png"}, "output_type is 'png': there are np, pt, pil and latent"),
        ({"seed": 1.5}, "seed is 1.5: give a whole number"),
        ({"seed": None, "generator": 3}, "generator is 3: give a torch.Generator, or one for each prompt"),
        ({"generator": torch.Generator()}, "seed and generator both determine the noise"),
    ],
)
def test_a_call(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        check_call(**CALL | wrong)
    assert check_call(**CALL) == ["a ball"]
    assert check_call(**CALL | {"prompt": ["", "a"]}) == ["", "a"], "no words at all are a prompt of other pipelines"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("guidance_scale", "a stream takes no guidance_scale; a distilled student takes no guidance"),
        ("num_inference_steps", "the weights determine the denoising steps: leave it out"),
        ("negative_prompt", "a stream takes no negative_prompt; a distilled student takes no guidance"),
        ("hight", "did you mean height?"),
        ("eta", "a stream takes no eta; there are height, seconds"),
    ],
)
def test_arguments_of_other_pipelines(name: str, sentence: str) -> None:
    with pytest.raises(TypeError, match=re.escape(sentence)) as told:
        check_options({name: 1}, ("height", "seconds"))
    assert "--" not in str(told.value)
    check_options({"height": 8}, ("height", "seconds"))


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        ("stop", "callback_on_chunk_end returned 'stop': return a dict, or nothing"),
        ({"promt": "a"}, "callback_on_chunk_end returned 'promt'; did you mean 'prompt'?"),
        ({"x": 1}, "it may return latents, prompt, prompt_embeds, switch"),
        ({"latents": torch.zeros(1, 16, 1, 8, 2)}, "latents [1, 16, 1, 8, 2]: those of the chunk are [1, 16, 1, 8, 8]"),
        ({"switch": "cut"}, "returned a switch and no prompt to switch to: return both"),
        ({"prompt": "a", "switch": "recash"}, "no kind of switch 'recash'; there are keep, recache, flush, cut"),
    ],
)
def test_what_a_callback_returns(returned: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        changes_of(returned, SHAPE)
    fine: list[Callable[[], Any]] = [lambda: None, dict, lambda: {"prompt": "a", "switch": None}]
    assert [changes_of(made(), SHAPE) for made in fine] == [{}, {}, {"prompt": "a", "switch": None}]
