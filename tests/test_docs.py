"""What the documents name is there: files, links, modules, make targets and variables, commands, flags, configuration
keys. Whole commands, defaults and error messages: test_docs_commands.py.

Names of others (their repositories, tools and file formats) and of files that a run writes are in `ELSEWHERE`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import re
import shlex
import typing
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from adastate.config.classes import constructor_parameters
from adastate.config.compose import compose
from adastate.config.schema import LIGHTNING, VARIABLES, Config, ConfigError
from adastate.launch.commands import COMMANDS
from adastate.main import TRUST, main
from adastate.models.video_network import Size
from adastate.stream import StreamSpec

ROOT = Path(__file__).parents[1]
HOUSE = ("adastate", "benchmarks", "callbacks", "conf", "datamodules", "docs", "tests")
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
DOCS += [ROOT / "conf/recipes/README.md", ROOT / "tests/data/README.md"]
YAMLS = sorted((ROOT / "conf").rglob("*.yaml"))

ELSEWHERE = """
configurations and scripts of the reference implementations
    train.py wan_causal_ode.yaml causal_ode_chunkwise.yaml ar_diffusion_tf_chunkwise.yaml causal_cd_chunkwise.yaml
    self_forcing_dmd.yaml default_config.yaml self_forcing_sid.yaml wan_causal_dmd.yaml rolling_forcing_dmd.yaml
    longlive_train_long.yaml longlive_train_init.yaml causal_forcing_dmd_chunkwise.yaml longlive_inference.yaml
    longlive_interactive_inference.yaml
their configuration keys (docs/reference/from_other_projects.md)
    generator_ckpt lora_ckpt real_name fake_name gradient_checkpointing sharding_strategy apply_to_critic
    generator_fsdp_wrap_strategy real_score_fsdp_wrap_strategy fake_score_fsdp_wrap_strategy
    text_encoder_fsdp_wrap_strategy num_frame_per_block independent_first_frame denoising_step_list
    warp_denoising_step model_kwargs local_attn_size global_sink switch_frame_indices num_output_frames num_samples
    distribution_loss lr_critic beta1_critic beta2_critic max_grad_norm_generator max_grad_norm_critic batch_size
    sid_alpha total_batch_size gradient_accumulation_steps dfake_gen_update_ratio max_iters ema_weight ema_start_step
    guidance_scale real_guidance_scale fake_guidance_scale num_train_timestep ts_schedule min_score_timestep
    denoising_loss_type same_step_across_blocks last_step_only num_training_frames image_or_video_shape log_iters
    max_checkpoints streaming_training streaming_chunk_size streaming_max_length streaming_min_new_frame
    slice_last_frames switch_prompt_path switch_mode switch_choices vis_interval vis_video_lengths vis_ema data_path
    model_name
what a run writes, and what a reader writes
    report.md arm.yaml distill/config.yaml my_stream.yaml conf/systems/mine.yaml first.png
what others publish
    vidprom_filtered_extended
flags of torchrun, hf, curl, docker, SLURM and VBench
    --nproc-per-node --no-python --local-dir --include --create-dirs --mem --constraint --signal --partition --ntasks
    --wrap --kill-on-bad-exit --videos_path --prompt_file --target --rm --entrypoint --shm-size --user
words of others in code, and names that are put together
    prompt_file videos_path mixed_precision load_lora_weights from_pretrained weights_only max_memory_allocated
    to_gate_compress
    model_training all_dimension longlive_base MovieGenVideoBench_extended avx512_bf16 k_img img_emb lora_A lora_B
    custom_nodes example_workflows flyover_api
    generator_ema lora_down lora_unet_blocks_0_self_attn_q diff_b _middle_ _high_ _s1_w9 _s1_w6 state_1x attention_1x
"""

OTHERS = {word for line in ELSEWHERE.splitlines() if line.startswith("    ") for word in line.split()}
OTHERS |= {Path(word).stem for word in OTHERS}

LAYERS = {  # config files that a command composes, between which the keys that the documents name are found
    "distill": "base sizes/tiny stages/distill stages/distill_tiny recipes/distill_long_switch strategy/zero2",
    "wan": "base sizes/wan_1_3b sizes/wan_14b stages/distill recipes/distill_lora",
    "taehv": "base sizes/wan_1_3b codecs/taehv stages/distill recipes/distill_reward",
    "teacher": "base sizes/tiny stages/teacher",
    "init": "base sizes/tiny stages/init",
    "codec": "base sizes/tiny stages/codec",
}


def spans(text: str) -> list[str]:
    """The code of a document: blocks with their continued lines joined, a line each, and what stands in backticks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines = [re.split(r"(?:^|\s)#\s", line)[0] for line in lines]
    return lines + [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def comments(text: str) -> str:
    """Those of a YAML file, as one text."""
    return " ".join(line.partition("#")[2].strip() for line in text.splitlines() if "#" in line)


# ---- files and modules


def wrong_files(text: str, folder: Path) -> Iterator[str]:
    for name in re.findall(r"[\w./*-]*\w\*?\.(?:py|yaml|md|sh|png|svg|csv)\b", text):
        anywhere = "/" not in name and any(any((ROOT / part).rglob(name)) for part in HOUSE)
        places = () if name.startswith("/") else (ROOT, folder, ROOT / "conf", ROOT / "tests")
        known = anywhere or name in OTHERS or Path(name).name in OTHERS
        if not known and not any(any(place.glob(name)) for place in places):
            yield name
    for name in re.findall(rf"(?<![\w./-])(?:{'|'.join(HOUSE)})/[\w/]*/(?![\w*.{{<])", text):
        if not (ROOT / name).is_dir():
            yield name


def wrong_names(text: str, folder: Path) -> Iterator[str]:
    """Dotted names of Python, `callbacks.Preempt` say."""
    for name in re.findall(
        r"(?<![\w./-])(?:adastate|callbacks|datamodules|benchmarks|metrics)(?:\.[A-Za-z]\w*)+", text
    ):
        if not _importable(f"adastate.{name}" if name.startswith("metrics.") else name):
            yield name


def _importable(name: str) -> bool:
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            found = importlib.import_module(".".join(parts[:n]))
            for part in parts[n:]:
                if not hasattr(found, part):
                    return False
                found = getattr(found, part)
            return True
    return False


@cache
def spelt() -> set[str]:
    """Every word of the sources and configurations."""
    files = [p for part in HOUSE for end in ("py", "yaml", "sh", "json") for p in (ROOT / part).rglob(f"*.{end}")]
    files = [p for p in files if p != Path(__file__)]
    names = {word for p in files for word in re.split(r"[/.]", str(p.relative_to(ROOT)))}
    names |= {name.partition("_")[2] for name in names}  # RECIPE=long_switch is distill_long_switch.yaml
    return names | {word for p in files for word in re.findall(r"\w+", p.read_text())}


def wrong_words(text: str, folder: Path) -> Iterator[str]:
    """Identifiers with an underscore, in code."""
    for span in spans(text):
        for word in re.findall(r"(?<!<)\b\w+_\w+\b", span):
            if word not in spelt() and word not in OTHERS and not word[-1].isdigit():
                yield word


# ---- make


@cache
def makefile() -> tuple[set[str], set[str]]:
    """Targets and variables."""
    text = (ROOT / "Makefile").read_text()
    variables = set(re.findall(r"^([A-Z]+)\s*[?:]?=", text, re.M)) | set(re.findall(r"\$\(([A-Z]+)\)", text))
    passed = re.search(r"^VARIABLES\s*:=(.*)", text, re.M)
    assert passed is not None
    return set(re.findall(r"^([a-z-]+):", text, re.M)), variables | set(passed[1].split())


def wrong_make(text: str, folder: Path) -> Iterator[str]:
    targets, variables = makefile()
    for span in spans(text):
        word = r"""(?: +[a-z-]+| +[A-Z]+=(?:"[^"]*"|'[^']*'|[^\s"']*))"""
        for command in re.findall(rf"(?<![\w-])make({word}+)", span):
            words = shlex.split(command)
            named = [w for w in words if "=" not in w]
            yield from (f"make {w}" for w in named if w not in targets)
            for name, _, value in (w.partition("=") for w in words if "=" in w):
                if name not in variables:
                    yield f"make {' '.join(named)} {name}="
                yield from _wrong_value(name, value, (named or [""])[0].removeprefix("train-"))


def _wrong_value(name: str, value: str, stage: str) -> Iterator[str]:
    files = {"STRATEGY": "strategy/{}", "SIZE": "sizes/{}", "SYSTEM": "systems/{}", "RECIPE": f"recipes/{stage}_{{}}"}
    if name in files and value and stage != "trajectories":
        for word in value.split():
            if re.fullmatch(r"\w+", word) and not (ROOT / f"conf/{files[name].format(word)}.yaml").is_file():
                yield f"{name}={word}"


# ---- commands, flags and keys


@cache
def flags(command: str) -> set[str]:
    """What `adastate COMMAND --help` lists, that of its verbs too."""
    if command == "fit":
        return {option for option in COMMANDS["fit"].parser().options if option.startswith("--")}
    verbs = ["inspect", "import", "export", "push", "pull"] if command == "weights" else []
    found = set[str]()
    for words in ([], *([verb] for verb in verbs)):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            main([command, *words, "--help"])
        found |= set(re.findall(r"(?<![\w-])--[a-z][\w-]*", out.getvalue()))
    return found | ({"--config", "--system"} if command in ("plan", "trajectories") else set())


@cache
def all_flags() -> set[str]:
    benches = "".join(p.read_text() for p in (ROOT / "benchmarks").glob("*.py"))
    return set().union(*map(flags, COMMANDS), re.findall(r"\"(--[a-z][\w-]*)\"", benches), OTHERS, {TRUST})


def wrong_flags(text: str, folder: Path) -> Iterator[str]:
    """`adastate COMMAND --flag`, and flags for which no command is told."""
    for span in spans(text):
        before, *commands = re.split(r"(?<![\w./-])adastate (?=[a-z])", span)
        for told, known in [(before, all_flags()), *((c, None) for c in commands)]:
            command = told.split()[0] if known is None else ""
            if known is None and command not in COMMANDS:
                if not before:  # else it is a sentence
                    yield f"adastate {command}"
                continue
            for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*(?![\w.-])", told):
                if flag not in (known or flags(command)):
                    yield f"adastate {command} {flag}" if command else flag


def _compose(name: str, *overrides: str) -> Config:
    return compose([ROOT / f"conf/{layer}.yaml" for layer in LAYERS[name].split()], overrides)


composed = cache(_compose)


def wrong_keys(text: str, folder: Path) -> Iterator[str]:
    """Overrides (`--stream.past_frames=6`), and keys in backticks (`stream.past_frames`)."""
    heads = "|".join((*VARIABLES, *LIGHTNING))
    for span in spans(text):
        pattern = rf"(?<![\w-])--((?:{heads})\.[\w.]+)(?:=([^\s'\"`]*))?"
        found = re.findall(pattern, span) + re.findall(rf"^((?:{heads})(?:\.\w+)+)(?:=(\S+))?$", span)
        for key, value in found:
            if key.rpartition(".")[2] not in ("safetensors", "yaml", "jsonl") and not any(
                _takes(composed(name), key.split("."), value) for name in LAYERS
            ):
                yield key


def _takes(config: Config, path: list[str], value: str) -> bool:
    head, *rest = path
    kinds: dict[str, Any] = {"stream": StreamSpec, "size": Size, "teacher_size": Size, "critic_size": Size}
    if head == "trainer":
        return _leads(pl.Trainer, config.lightning[head], rest)
    if head in kinds:
        if value and value != "..." and rest[0] in {f.name for f in dataclasses.fields(kinds[head])}:
            try:
                compose(
                    [ROOT / f"conf/{layer}.yaml" for layer in LAYERS["distill"].split()], [f"{head}.{rest[0]}={value}"]
                )
            except ConfigError:
                return False
        return _leads(kinds[head], None, rest)
    return _leads(None, {**config.variables, **config.lightning}.get(head), rest)


def _leads(kind: Any, node: Any, path: list[str]) -> bool:
    """Whether `path` is one of `node`, an object of `kind` where it has no class path of its own."""
    path = [part for part in path if part not in ("init_args", "class_path")]
    if not path:
        return True
    if isinstance(node, dict) and "class_path" in node:
        module, _, name = node["class_path"].rpartition(".")
        kind, node = getattr(importlib.import_module(module), name), node.get("init_args") or {}
    below = node.get(path[0]) if isinstance(node, dict) else None
    if kind is None:
        return isinstance(node, dict) and path[0] in node and _leads(None, below, path[1:])
    if path[0] not in constructor_parameters(kind):
        return False
    hint = typing.get_type_hints(kind.__init__).get(path[0])
    hints = [h for h in (hint, *typing.get_args(hint)) if isinstance(h, type) and dataclasses.is_dataclass(h)]
    return _leads(hints[0] if hints else None, below, path[1:])


# ---- tests

CHECKS: dict[str, Callable[[str, Path], Iterator[str]]] = {
    "files": wrong_files,
    "names": wrong_names,
    "words": wrong_words,
    "make": wrong_make,
    "flags": wrong_flags,
    "keys": wrong_keys,
}


@pytest.mark.parametrize("check", CHECKS)
def test_what_documents_name_is_there(check: str) -> None:
    # which have tests of their own
    tested = {"troubleshooting": r"^\| `.*?` \|", "extending": r"(?s)^```(?:diff|bash)\n.*?^```"}
    texts = {p: re.sub(tested.get(p.stem, r"\Z"), "|", p.read_text(), flags=re.M) for p in DOCS}
    wrong = {str(p.relative_to(ROOT)): sorted(set(CHECKS[check](text, p.parent))) for p, text in texts.items()}
    assert {name: found for name, found in wrong.items() if found} == {}


@pytest.mark.parametrize("check", ["files", "make", "keys", "flags"])
def test_what_comments_of_configurations_name_is_there(check: str) -> None:
    wrong = {str(p.relative_to(ROOT)): list(CHECKS[check](comments(p.read_text()), p.parent)) for p in YAMLS}
    assert {name: found for name, found in wrong.items() if found} == {}


def anchors(path: Path) -> set[str]:
    """Of the headings of a document, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_somewhere() -> None:
    links = [(p, link) for p in [*DOCS, ROOT / "CHANGELOG.md"] for link in re.findall(r"\]\(([^)\s]+)", p.read_text())]
    wrong = []
    for page, link in links:
        name, _, anchor = link.partition("#")
        place = page.parent / name if name else page
        if "://" not in link and (not place.exists() or (anchor and anchor not in anchors(place))):
            wrong.append((page.name, link))
    assert wrong == []
    assert len(links) > 50


def test_the_readme_is_short_and_the_index_has_every_page() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160
    index = (ROOT / "docs/index.md").read_text()
    pages = [str(p.relative_to(ROOT / "docs")) for p in (ROOT / "docs").rglob("*.md") if p.name != "index.md"]
    assert [page for page in pages if page not in index and Path(page).name not in index] == []


@pytest.mark.parametrize(
    ("check", "text", "found"),
    [
        ("files", "see `adastate/stream/slab.py` and `zero2.yaml`", ["adastate/stream/slab.py"]),
        ("files", "conf/zero/ and conf/strategy/", ["conf/zero/"]),
        ("names", "`callbacks.Preempt`, `callbacks.Whole`, adastate.weights.header_facts", ["callbacks.Whole"]),
        ("words", "`first_steps` and `denoising_steps`", ["first_steps"]),
        ("make", "`make train-init WITH=consistency`", ["make train-init WITH="]),
        ("make", "`make bench-all`, `make bench`", ["make bench-all"]),
        ("make", '`make train-distill RECIPE="lora longer"`, `make train-init STRATEGY=zero9`',
         ["RECIPE=longer", "STRATEGY=zero9"]),
        ("flags", "```\nadastate generate \\\n    --prompt x --state\n```", ["adastate generate --state"]),
        ("flags", "`adastate make` and `--from-lmdb FOLDER`, `--from-mdb FOLDER`", ["adastate make", "--from-mdb"]),
        ("keys", "`stream.steps` `--stream.past_frames=6` `--rollout.frame=9`", ["stream.steps", "rollout.frame"]),
        ("keys", "`--model.rollouts.long_rollout.frames=9`, `model.rollouts.length`", ["model.rollouts.length"]),
        ("keys", "`--stream.anchor=moving`", ["stream.anchor"]),
        ("keys", "`model.student.init_args.engine`, `model.student.motor`", ["model.student.motor"]),
    ],
)  # fmt: skip
def test_a_stale_name_is_seen(check: str, text: str, found: list[str]) -> None:
    assert sorted(CHECKS[check](text, ROOT / "docs")) == sorted(found)
