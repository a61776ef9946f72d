"""What people type wrongly is answered in one sentence that names the remedy, and never with a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from adastate.main import main
from tests.test_commands import CONFIG

DISTILL = [*CONFIG, "--config", "conf/stages/distill.yaml", "--config", "conf/stages/distill_tiny.yaml"]
STUDENT = "--model.init_args.student.init_args"

READ = {  # found while the configuration is read
    "--run.iteratons=5": "run has no 'iteratons'; did you mean 'iterations'",
    "--run.iterations=1e0": "cannot have iterations '1e0'; it takes a whole number",
    "--run.threads=-3": "run.threads is -3; at least one thread works",
    "--run.attention=flsh": "attention 'flsh': there are sdpa",
    "--preview.evry=5": "preview has no 'evry'; did you mean 'every'",
    "--rollout.frame=5": "rollout has no 'frame'; did you mean 'frames'",
    "--training.bach=5": "training has no 'bach'; did you mean 'batch'",
    "--teacher.guidence=5": "teacher has no 'guidence'; did you mean 'guidance'",
    "--precision.compile=true": "precision has no 'compile'; did you mean 'compiled'",
    "--stream.past_frame=5": "stream has no 'past_frame'; did you mean 'past_frames'",
    "--stream.past_frames=2.5": "stream cannot have past_frames 2.5; it takes a whole number or null",
    "--stream.past_frames=many": "stream cannot have past_frames 'many'; it takes a whole number or null",
    "--stream.chunk_frames=0": "chunk_frames is 0; a chunk has at least one latent frame",
    "--stream.schedule=stairs": "stream cannot have schedule 'stairs'; did you mean 'staircase'",
    "--size.heads=5": "width 128 is not divisible by heads 5: change one of them",
    "--size.width=wide": "size cannot have width 'wide'; it takes a whole number",
    "--size.patch=[2,2]": "size cannot have patch [2, 2]; it takes a list of 3",
    "--size=tiny": "size",
    "--data.init_args.batch=many": "PromptData cannot have batch 'many'; it takes a whole number",
    "--data.init_args.bach=4": "PromptData has no 'bach'; did you mean 'batch'",
    "--model.class_path=adastate.training.distil.Distill": "there is no class adastate.training.distil.Distill",
    "--model.iterations=fast": "Distill cannot have iterations 'fast'; it takes a whole number",
    f"{STUDENT}.seed=much": "Student cannot have seed 'much'; it takes a whole number",
    f"{STUDENT}.engine=graf": "Student cannot have engine 'graf'; did you mean 'graph'",
    f"{STUDENT}.latent_size=8": "Student cannot have latent_size 8; it takes a list of 2",
    "--trainer.precision=bf16mixed": "the trainer cannot have precision 'bf16mixed'; did you mean 'bf16-mixed'",
    "--trainer.logger=Wandb": "the trainer cannot have logger 'Wandb'; it takes the class_path of a Logger",
    "--trainer.callbacks=Nothing": "the trainer cannot have callbacks 'Nothing'; it takes a list",
    "--trainer.max_epochs=abc": "the trainer cannot have max_epochs 'abc'; it takes a whole number or null",
    "--trainer.max_step=5": "the trainer has no 'max_step'; did you mean 'max_steps'",
    "--tariner.max_steps=5": "`adastate fit` has no 'tariner'; did you mean 'trainer'",
    "--system=longlve": "no system 'longlve'; did you mean 'longlive'",
    "--config=conf/size/tiny.yaml": "no config file conf/size/tiny.yaml",
}

MADE = {  # found when what it is for is made
    "--rollout.frames=0": "0 frames are not a multiple of the chunk of 1",
    "--training.batch=-1": "a batch of -1 samples and 0 workers: at least 1",
    "--training.batch=5": "global_batch 16 is not a multiple of 1 processes x batch 5",
    "--preview.every=-1": "every must be at least 0",
    "--trainer.gradient_clip_val=1": "set gradient_clip_norm of the model instead",
    "--trainer.accumulate_grad_batches=2": "accumulates to the global_batch of the model by itself",
    "--trainer.devices=0": "is not a valid input",
    "--trainer.strategy=zero9": "invalid strategy name",
    f"{STUDENT}.weights=gone.safetensors": "no weights at gone.safetensors",
    f"{STUDENT}.codec.init_args.weights=gone.safetensors": "no codec weights at gone.safetensors",
}


def said(arguments: list[str]) -> str:
    """What the command ends with."""
    with pytest.raises(SystemExit) as end:
        main(["fit", *arguments])
    return str(end.value)


@pytest.mark.parametrize("word", READ)
def test_mistakes_in_what_is_read(word: str, tmp_path: Path) -> None:
    told = said([*DISTILL, f"--run.dir={tmp_path}", word])
    assert told.startswith("adastate: ") and READ[word] in told and "\n" not in told, told


@pytest.mark.parametrize("word", MADE)
def test_mistakes_that_show_when_it_is_made(word: str, tmp_path: Path) -> None:
    start = [] if word.startswith(f"{STUDENT}.weights") else [f"{STUDENT}.weights=builtin"]
    told = said([*DISTILL, f"--run.dir={tmp_path}", *start, word])
    assert told.startswith("adastate: ") and MADE[word] in told and "\n" not in told, told


def test_no_gpu_where_one_is_asked_for(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    told = said([*DISTILL, f"--run.dir={tmp_path}", f"{STUDENT}.weights=builtin", "--trainer.accelerator=gpu"])
    assert "torch finds no GPU here; leave trainer.accelerator at auto" in told
