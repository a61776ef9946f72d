"""Options of other tools that have no counterpart in a command here, and what to do in their place."""

from __future__ import annotations

from collections.abc import Iterable

ANSWERS: tuple[tuple[str, str, str], ...] = (
    # words, an option by which the command is known, the remedy
    (
        "guidance guidance-scale cfg cfg-scale negative-prompt neg-prompt",
        "--states",
        "a distilled student takes no guidance and no negative prompt: leave it out",
    ),
    (
        "steps num-steps num-inference-steps inference-steps sampling-steps",
        "--states",
        "the weights determine the denoising steps: leave it out, or try others by --stream.denoising_steps=[1000,500]",
    ),
    ("fps frame-rate framerate", "--states", "the weights determine the frame rate: leave it out"),
    ("width height resolution res", "--states", "the weights determine the size of the video: leave it out"),
    (
        "lora lora-path lora-weights adapter",
        "--weights",
        "`adastate weights import LORA out.safetensors --base WEIGHTS` merges it; then give --weights out.safetensors",
    ),
    (
        "config",
        "--states",
        "a run folder has its own configuration (--run); weights without one take --size, --system and keys such as "
        "--stream.past_frames=6",
    ),
    (
        "prompt prompts text image seed actions",
        "--port",
        "prompts, seeds, first frames and actions are given on the page, or by its clients: leave it out",
    ),
    ("seconds length duration frames num-frames", "--port", "a session has no end: leave it out"),
    ("open browser share", "--port", "the command prints the address of its page: open that"),
    ("password pw secret key api-key", "--port", "whoever may connect is told by --token, or ADASTATE_LIVE_TOKEN"),
    ("memory vram gpu-memory", "--rank", "the GPU determines it: give --device, one of a100, h100, h200, b200"),
    ("zero strategy", "--rank", "use --config conf/strategy/zero2.yaml, or another of conf/strategy/"),
    ("sp sequence-parallel", "--tflops", "every degree that is possible is planned: leave it out"),
    (
        "config",
        "--preset",
        "the pipeline has its own files of conf/: change keys by --KEY=VALUE, or run a stage by `adastate fit`",
    ),
    (
        "overwrite force restart",
        "--preset",
        "a stage whose settings have changed begins anew by itself; another --run begins with nothing",
    ),
    ("world data videos real", "--look-away", "the run's own clips are the real ones: leave it out"),
)


def answer(option: str, options: Iterable[str]) -> str:
    """What to do in the place of an option that a command with these `options` has not; empty if it is unknown, too."""
    name, known = option.partition("=")[0].lstrip("-").replace("_", "-"), set(options)
    if f"--{name}" in known:
        return ""
    return next((remedy for words, of, remedy in ANSWERS if of in known and name in words.split()), "")


COMMANDS = {
    "generate": "infer inference sample predict run t2v video test-run stream",
    "live": "serve server demo ui webui app interactive",
    "evaluate": "eval test benchmark metrics score",
    "weights": "convert inspect import export push pull upload download merge",
    "shards": "dataset preprocess prepare data",
    "fit": "distill finetune tune pretrain stage",
}
"""Words for which other tools, or parts of ours, have a command of their own, by ours."""


def command_for(word: str) -> str:
    """The command that a word means which is none; empty if nothing is known."""
    return next((ours for ours, words in COMMANDS.items() if word in words.split()), "")
