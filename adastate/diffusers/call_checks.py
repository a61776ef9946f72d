"""What a call of the pipeline, and a callback of its, may not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from adastate.runtime.foreign_words import answer
from adastate.runtime.python_arguments import prompt_texts, whole_number
from adastate.runtime.spelling import likeliest_word
from adastate.stream.switches import Kind

OUTPUTS = ("np", "pt", "pil", "latent")
KINDS = get_args(Kind)
CHANGES = ("latents", "prompt", "prompt_embeds", "switch")
"""What a callback may return."""


def check_options(options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuses arguments that other pipelines have and this one has not.

    Raises:
        TypeError: for the first of them, with the remedy.
    """
    for name in options:
        if name in known:
            continue
        near = likeliest_word(name, known, cutoff=0.75)
        remedy = f"did you mean {near}?" if near else f"there are {', '.join(known)}"
        elsewhere = answer(name, ["--states"]).partition(", or try")[0]
        raise TypeError(f"a stream takes no {name}; {elsewhere or remedy}")


def check_call(
    prompt: Any, prompt_embeds: Any, seconds: Any, num_frames: Any, output_type: str, seed: Any, generator: Any
) -> list[str] | None:
    """The prompts of a call; None where embeddings stand for them.

    Raises:
        ValueError: what is of a wrong kind, or does not go together.
    """
    if prompt is None and prompt_embeds is None:
        raise ValueError("there is no prompt: give prompt, or prompt_embeds")
    if prompt is not None and prompt_embeds is not None:
        raise ValueError("give prompt or prompt_embeds, and not both")
    if prompt_embeds is not None and not (isinstance(prompt_embeds, Tensor) and prompt_embeds.dim() == 3):
        raise ValueError("prompt_embeds is a tensor [B, Lt, text_dim], as encode_prompt makes it")
    if seconds is not None and num_frames is not None:
        raise ValueError("seconds and num_frames both give the length: give one of them")
    if num_frames is not None:
        whole_number("num_frames", num_frames, 1)
    if output_type not in OUTPUTS:
        raise ValueError(f"output_type is {output_type!r}: there are np, pt, pil and latent")
    if seed is not None and generator is not None:
        raise ValueError("seed and generator both determine the noise: give one of them")
    if seed is not None:
        whole_number("seed", seed)
    generators = generator if isinstance(generator, Sequence) else [generator]
    if generator is not None and not all(isinstance(one, torch.Generator) for one in generators):
        raise ValueError(
            f"generator is {generator!r}: give a torch.Generator, or one for each prompt; or seed, a number"
        )
    if prompt is None:
        return None
    texts = prompt_texts(prompt, blank=True)
    if not texts:
        raise ValueError("there is no prompt in the list: give at least one")
    return texts


def changes_of(returned: Any, shape: torch.Size) -> dict[str, Any]:
    """What a callback returned, as a dict.

    Args:
        shape: of the chunk's latents.

    Raises:
        ValueError: it returned what cannot be changed, or in another form.
    """
    if returned is None:
        return {}
    if not isinstance(returned, Mapping):
        raise ValueError(f"callback_on_chunk_end returned {returned!r}: return a dict, or nothing")
    for name in returned:
        if name not in CHANGES:
            near = likeliest_word(name, CHANGES)
            remedy = f"did you mean {near!r}?" if near else f"it may return {', '.join(CHANGES)}"
            raise ValueError(f"callback_on_chunk_end returned {name!r}; {remedy}")
    latents = returned.get("latents")
    if "latents" in returned and (not isinstance(latents, Tensor) or latents.shape != shape):
        have = list(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
        raise ValueError(f"callback_on_chunk_end returned latents {have}: those of the chunk are {list(shape)}")
    if "switch" in returned:
        if not {"prompt", "prompt_embeds"} & set(returned):
            raise ValueError("callback_on_chunk_end returned a switch and no prompt to switch to: return both")
        if returned["switch"] not in (None, *KINDS):
            raise ValueError(f"no kind of switch {returned['switch']!r}; there are {', '.join(KINDS)}")
    return dict(returned)
