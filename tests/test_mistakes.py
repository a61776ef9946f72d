"""What people type wrongly is answered in one sentence that names the remedy, and never with a traceback.

What the text alone decides is answered before torch is imported, within a second.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from adastate.main import main
from tests.support.cases import thinned
from tests.test_commands import CONFIG

DISTILL = [*CONFIG, "--config", "conf/stages/distill.yaml", "--config", "conf/stages/distill_tiny.yaml"]
STUDENT = "--model.init_args.student.init_args"
LEAST = "it has to be at least"

READ = {  # words after `adastate fit` of a tiny distillation
    # keys of the variables
    "--run.iteratons=5": "run has no 'iteratons'; did you mean 'iterations'",
    "--preview.evry=5": "preview has no 'evry'; did you mean 'every'",
    "--rollout.frame=5": "rollout has no 'frame'; did you mean 'frames'",
    "--training.bach=5": "training has no 'bach'; did you mean 'batch'",
    "--training.init.step=5": "training.init has no 'step'; did you mean 'steps'",
    "--teacher.guidence=5": "teacher has no 'guidence'; did you mean 'guidance'",
    "--critic.weight=5": "critic has no 'weight'; did you mean 'weights'",
    "--precision.compile=true": "precision has no 'compile'; did you mean 'compiled'",
    "--stream.past_frame=5": "stream has no 'past_frame'; did you mean 'past_frames'",
    "--stream.switch.kindd=cut": "switch has no 'kindd'; did you mean 'kind'",
    "--size.widht=5": "size has no 'widht'; did you mean 'width'",
    "--codec.init_args.weight=x": "has no 'weight'; did you mean 'weights'",
    # values of the variables
    "--run.iterations=1e0": "run cannot have iterations '1e0'; it takes a whole number or null",
    "--run.iterations=0": f"run.iterations is 0; {LEAST} 1",
    "--run.save_every=often": "run cannot have save_every 'often'; it takes a whole number",
    "--run.seed=1.5": "run cannot have seed 1.5; it takes a whole number",
    "--run.threads=-3": f"run.threads is -3; {LEAST} 1",
    "--run.attention=flsh": "run cannot have attention 'flsh'; did you mean 'flash4'",
    "--run.world=plane": "run cannot have world 'plane'; did you mean 'plain'",
    # keys in another place, and words of other tools
    "--max_steps=5": "`adastate fit` has no 'max_steps'; did you mean --trainer.max_steps",
    "--lr=1e-4": "did you mean --model.optimizer.student_lr or --model.optimizer.critic_lr",
    "--batch_size=4": "did you mean --training.batch or --data.batch",
    "--gpus=2": "did you mean --trainer.devices",
    "--resume": "did you mean 'ckpt_path'",
    "--optimizer.lr=1": "a stage makes its own; change it by --model",
    "--model.stream.past_frames=4": "has no 'stream'; did you mean --stream",
    "--model.student_lr=1": "did you mean --model.optimizer.student_lr",
    "--trainer.batch_size=4": "did you mean --training.batch or --data.batch",
    "--run.max_steps=4": "run has no 'max_steps'; did you mean trainer.max_steps",
    # the order of files
    "--config=conf/base.yaml": "--config conf/base.yaml stands after conf/stages/distill_tiny.yaml: give it before",
    "--config=conf/sizes/tiny.yaml": "stands after conf/stages/distill_tiny.yaml: give it before",
    "--config=conf/recipes/init_consistency.yaml": "changes conf/stages/init.yaml, and here is distill",
    "--config=conf/data/teacher_shards.yaml": "changes conf/stages/teacher.yaml, and here is distill",
    "--run=5": "run has keys of its own (dir, stage, seed",
    "--preview.every=often": "preview cannot have every 'often'; it takes a whole number",
    "--preview.long=1": "preview.long is 1, and a rollout of one horizon is always shown: give 0 (none), or 2",
    "--preview.every=-1": f"preview.every is -1; {LEAST} 0",
    "--preview.prompts=six.txt": "preview.prompts: no prompts at six.txt: give a text file with one prompt per line",
    "--data.file=all.txt": "data.file: no prompts at all.txt: give a text file with one prompt per line",
    "--rollout.frames=0": f"rollout.frames is 0; {LEAST} 1",
    "--rollout.frames=7.5": "rollout cannot have frames 7.5; it takes a whole number",
    "--training.batch=-1": f"training.batch is -1; {LEAST} 1",
    "--training.batch=auto": "training cannot have batch 'auto'; it takes a whole number",
    "--training.init.lr=fast": "training.init cannot have lr 'fast'; it takes a number",
    "--training.init.lr=-0.1": f"training.init.lr is -0.1; {LEAST} 0",
    "--training.init.betas=0.9": "training.init cannot have betas 0.9; it takes a list of 2",
    "--training.init.ema=1.5": "training.init.ema is 1.5; it has to be from 0 to 1",
    "--teacher.guidance=strong": "teacher cannot have guidance 'strong'; it takes a number",
    "--latent_size=8": "cannot have latent_size 8; it takes a list of 2",
    "--precision.compute_dtype=bf16": "precision cannot have compute_dtype 'bf16'; did you mean 'bfloat16'",
    "--precision.checkpointing=maybe": "precision cannot have checkpointing 'maybe'; it takes true, false",
    "--run.dir=[x": "this is not valid YAML",
    # streams and sizes
    "--stream.past_frames=2.5": "stream cannot have past_frames 2.5; it takes a whole number or null",
    "--stream.past_frames=many": "stream cannot have past_frames 'many'; it takes a whole number or null",
    "--stream.past_frames=-1": "past_frames is -1: the window would be smaller than a chunk",
    "--stream.chunk_frames=0": "chunk_frames is 0; a chunk has at least one latent frame",
    "--stream.chunk_frames=4": "7 frames are not a multiple of the chunk of 4; 8 would be",
    "--stream.attention_frames=1": "attention_frames is 1, less than the anchor of 1 and the 1 frames of a pass",
    "--stream.schedule=stairs": "stream cannot have schedule 'stairs'; did you mean 'staircase'",
    "--stream.schedule=staircase": "'staircase' has several levels in a pass, a state has one: use uniform",
    "--stream.anchor=stat": "stream cannot have anchor 'stat'; did you mean 'state'",
    "--stream.anchor=none": "use state_frames 0 with anchor none",
    "--stream.anchor=ema": "anchor 'ema' takes 1 decay from 0 to 1",
    "--stream.denoising_steps=[250,500]": "a step list runs from noise to data, so it must fall",
    "--stream.switch.kind=jump": "switch cannot have kind 'jump'",
    "--size.heads=5": "width 128 is not divisible by heads 5: change one of them",
    "--size.width=wide": "size cannot have width 'wide'; it takes a whole number",
    "--size.patch=[2,2]": "size cannot have patch [2, 2]; it takes a list of 3",
    "--size=tiny": "size has keys of its own, and no value: --config conf/sizes/tiny.yaml sets them",
    "--stream=longlive": "stream has keys of its own, and no value: --system longlive sets them",
    # arguments of classes
    "--data.init_args.batch=many": "PromptData cannot have batch 'many'; it takes a whole number",
    "--data.init_args.bach=4": "PromptData has no 'bach'; did you mean 'batch'",
    "--data.class_path=datamodules.prompts.PromtData": "there is no class datamodules.prompts.PromtData",
    "--model.class_path=adastate.training.distil.Distill": "there is no class adastate.training.distil.Distill",
    "--model.class_path=Distill": "there is no class Distill",
    "--model.iterations=fast": "Distill cannot have iterations 'fast'; it takes a whole number",
    "--model.init_args.optimizer.student_rl=1": "optimizer has no 'student_rl'; did you mean 'student_lr'",
    "--model.init_args.objective.init_args.horizon_wieght=1": "DMD has no 'horizon_wieght'; did you mean",
    f"{STUDENT}.seed=much": "Student cannot have seed 'much'; it takes a whole number",
    f"{STUDENT}.engine=graf": "Student cannot have engine 'graf'; did you mean 'graph'",
    f"{STUDENT}.latent_size=8": "Student cannot have latent_size 8; it takes a list of 2",
    # the trainer
    "--trainer.precision=bf16mixed": "the trainer cannot have precision 'bf16mixed'; did you mean 'bf16-mixed'",
    "--trainer.logger=Wandb": "there is no logger Wandb; did you mean lightning.pytorch.loggers.WandbLogger?",
    "--trainer.callbacks=Nothing": "there is no callback Nothing; --trainer.callbacks+= takes the path of a class",
    "--trainer.callbacks=ModelCheckpoint": "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint adds it",
    "--trainer.callbacks=callbacks.Preempt": "would stand in the place of all callbacks of the stage",
    "--trainer.callbacks=[Foo]": "there is no callback Foo; --trainer.callbacks+= takes",
    "--trainer.callbacks={class_path: callbacks.Preempt}": "a stage has a list of callbacks: --trainer.callbacks+={",
    "--trainer.callbacks+=ModelChekpoint": "did you mean lightning.pytorch.callbacks.ModelCheckpoint?",
    "--trainer.callbacks+=callbacks.Progres": "did you mean callbacks.Progress?",
    "--trainer.callbacks+=adastate.training.critic.Critic": "Critic cannot be a callback: it is no Callback",
    "--trainer.logger+=Foo": "there is no logger Foo; --trainer.logger= takes the path of a class",
    "--trainer.logger=callbacks.Progress": "callbacks.Progress cannot be a logger: it is no Logger",
    "--trainer.max_steps+=5": "+= adds to a list, and trainer.max_steps is none: --trainer.max_steps=5",
    "--trainer=Foo": "trainer has keys of its own: --trainer.KEY=VALUE changes one of them",
    "--data=Foo": "--data.class_path=package.module.Class its class",
    "--trainer.max_epochs=abc": "the trainer cannot have max_epochs 'abc'; it takes a whole number or null",
    "--trainer.max_epochs=0": "trainer.max_epochs is 0, so nothing would be trained: leave it out",
    "--trainer.max_epochs=3": "a distillation is as long as its iterations: leave it at -1, and set --run.iterations",
    "--trainer.max_steps=0": "trainer.max_steps is 0, so nothing would be trained: leave it out",
    "--trainer.limit_train_batches=0.0": "trainer.limit_train_batches is 0.0, so nothing would be trained",
    '--trainer.max_time="00:00:00:00"': "trainer.max_time is 00:00:00:00, so nothing would be trained",
    "--trainer.max_time={minutes: 0}": "trainer.max_time is {'minutes': 0}, so nothing would be trained",
    "--trainer.max_step=5": "the trainer has no 'max_step'; did you mean 'max_steps'",
    "--trainer.gradient_clip_val=1": "set its gradient_clip_norm",
    "--trainer.devices=0": "trainer.devices is 0; give at least 1, or -1 for all that there are",
    "--trainer.devices=two": "trainer.devices cannot be 'two'; it takes a number, a list of numbers, or auto",
    "--trainer.num_nodes=0": "trainer.num_nodes is 0; give at least 1",
    "--trainer.strategy=zero9": "no strategy 'zero9'; give --config conf/strategy/NAME.yaml, NAME being one of ddp",
    "--trainer.strategy=zero2": "no strategy 'zero2'; give --config conf/strategy/zero2.yaml",
    "--trainer.accelerator=gpuu": "the trainer cannot have accelerator 'gpuu'; did you mean 'gpu'",
    "--trainer.accumulate_grad_batches=2": "accumulates to the global_batch of the model by itself",
    "--tariner.max_steps=5": "`adastate fit` has no 'tariner'; did you mean 'trainer'",
    # what does not go together
    "--training.batch=5": "global_batch 16 is not a multiple of 1 processes x batch 5; --training.batch=4 would do",
    "--trainer.devices=3": "global_batch 16 is not a multiple of 3 processes x batch 16; take a number of processes",
    "--model.global_batch=15": "global_batch 15 is not a multiple of 1 processes x batch 16; --training.batch=15",
    # numbers that no run can have, words without their values, paths for names
    "--run.iterations": "--run.iterations has no value: give --run.iterations=VALUE",
    "--run.dir=": "--run.dir= is empty: give --run.dir=VALUE, or --run.dir=null for nothing",
    "--teacher.weights=": "--teacher.weights= is empty",
    "--data.file=": "--data.file= is empty: give --data.file=VALUE, or --data.file=null for nothing",
    '--preview.prompts=["a ball", ""]': "preview.prompts: a prompt is empty: describe what to show",
    "--run.seed=-1": "run.seed is -1; it has to be from 0 to 4294967295",
    "--run.stage=a/b": "run.stage is 'a/b': it names a folder within run.dir and must not be a path",
    "--run.threads=100000": "run.threads is 100000 and this machine has",
    "-run.dir=x": "'-run.dir=x' has one dash: keys are overridden with two, --run.dir=x",
    "--training.init.lr=nan": "training.init.lr is nan; it must be a finite number",
    "--model.init_args.optimizer.student_lr=inf": "student_lr is inf; it must be a finite number",
    "--model.init_args.optimizer.betas=[0.9,1.5]": "betas is 1.5; it has to be from 0 to 1",
    "--model.init_args.optimizer.gradient_clip_norm=-1": f"gradient_clip_norm is -1; {LEAST} 0",
    "--model.objective.horizon_weight=nan": "horizon_weight is nan; it must be a finite number",
    "--model.global_batch=0": f"global_batch is 0; {LEAST} 1",
    "--model.student.lora.rank=0": f"rank is 0; {LEAST} 1",
    "--data.workers=-1": f"workers is -1; {LEAST} 0",
    "--teacher.guidance=nan": "teacher.guidance is nan; it must be a finite number",
    "--teacher.timestep_shift=0": "teacher.timestep_shift is 0; it has to be above 0",
    "--stream.timestep_shift=0": "stream.timestep_shift=0: timestep_shift is 0; it has to be above 0",
    "--size.heads=0": f"heads is 0; {LEAST} 1",
    "--size.layers=0": f"layers is 0; {LEAST} 1",
    "--size.patch=[1,0,0]": "each side of a patch has to be at least 1",
    "--size.patch=[1,3,3]": "latent_size [8, 8] does not divide into patches of [3, 3]",
    "--data.class_path=builtins.dict": "builtins.dict cannot be the data: it is no LightningDataModule",
    "--model=adastate.training.Distill": "there is no class adastate.training.Distill",
    "--trainer.max_steps=-5": f"max_steps is -5; {LEAST} -1",
    "--trainer.log_every_n_steps=0": f"log_every_n_steps is 0; {LEAST} 1",
    "--trainer.accelerator=mps": "trainer.accelerator is mps, which is for Macs; leave it at auto",
    "--trainer.accelerator=tpu": "trainer.accelerator is tpu, and torch_xla is not installed; leave it at auto",
    "--overwrite=true": "--overwrite takes no value: leave out =true",
    "--optimizer=adam": "--optimizer: a stage makes its own; change it by --model",
    "--system=": "--system needs a name: give one of adastate",
    "--system": "--system has no value",
    # files
    "--system=longlve": "no system 'longlve'; did you mean 'longlive'",
    "--config=conf/stages/init.yaml": "distill and init are several stages: a command has one, so give one of them",
    "--config=conf/sizes/tny.yaml": "no config file conf/sizes/tny.yaml; did you mean conf/sizes/tiny.yaml",
    "--config=conf/size/tiny.yaml": "no config file conf/size/tiny.yaml; did you mean 'conf/sizes/tiny.yaml'",
    "--config=conf/strategy/zero9.yaml": "conf/strategy/ holds ddp, fsdp2, zero1, zero2, zero3",
    "--config=conf/recipes/distill_lng.yaml": "did you mean conf/recipes/distill_long.yaml",
    "--config=base.yaml": "no config file base.yaml; did you mean 'conf/base.yaml'",
    "--config=conf": "conf is a folder: name a file of it",
    "--config=README.md": "README.md",
}  # fmt: skip

FILES = {  # what a config file of one's own holds
    "run: {iteratons: 5}": "own.yaml, line 1: run has no 'iteratons'; did you mean 'iterations'",
    "run:\n  iterations: 1e0": "own.yaml, line 2: run cannot have iterations '1e0'",
    "run:\n  dir: a\n dir: b": "own.yaml, line 3: this is not valid YAML",
    "run:\n  dir: @home": "put quotes around text with a colon in it, or a @, % or ` before it",
    "run:\n  dir: a: b": "own.yaml, line 2: this is not valid YAML",
    "run: [1": "own.yaml, line 1: this is not valid YAML",
    "preview:\n  prompts:\n  - a: b": "own.yaml, line 2: preview cannot have prompts [{'a': 'b'}]; it takes a list",
    "- run": "holds no keys at its top level",
    "rn: {dir: a}": "own.yaml, line 1: the top level has no 'rn'; did you mean 'run'",
    "model:\n  init_args:\n    iteration: 5": "own.yaml, line 3: adastate.training.distill.Distill has no 'iteration'",
    "teacher: {weights: '${rnu.dir}'}": "own.yaml, line 1: Interpolation key 'rnu.dir' not found",
    "trainer:\n  callbacks:\n  - class_path: callbacks.Rollout": "line 3: there is no class callbacks.Rollout",
    "trainer:\n  callbacks:\n  - class_path: callbacks.Preempt\n    init_args: {evry: 5}": "has no 'evry'; did you",
    "trainer:\n  logger:\n    init_args: {save_dri: x}": "has no 'save_dri'; did you mean 'save_dir'",
    "run:\n  iterations: 5\n  iterations: 6": "own.yaml, line 3: iterations stands here twice: leave one of them out",
    "run: {seed: 5}\nrun: {iterations: 6}": "own.yaml, line 2: run stands here twice",
    "run: {~: 6}": "own.yaml, line 1: a key has to be a name",
    "run: {iterations: 010}": "own.yaml, line 1: 010 would be read as 8: write that, or '010' for text",
    "run: {iterations: 1:30}": "own.yaml, line 1: 1:30 would be read as 90",
    "teacher: {weights: '${'}": "own.yaml, line 1: no viable alternative at input '${'; `${` begins a reference",
    "trainer: {callbacks: {class_path: callbacks.Preempt}}": "line 1: trainer.callbacks takes a list, and not keys",
    "trainer: {callbacks: [{clas_path: callbacks.Preempt}]}": "named by class_path; here stands clas_path",
    "trainer: {callbacks: [{class_path: callbacks.Preempt, init_arg: {}}]}": "no 'init_arg'; did you mean 'init_args'",
    "data: {class_path: 5}": "data: class_path is 5; it names a class, package.module.Class",
    "data: {init_args: [1]}": "own.yaml, line 1: data.init_args takes keys of its own, and not a list",
    "model: adastate.training.distill.Distill": "model has keys of its own, and no value: model.class_path",
    "stream: []": "own.yaml, line 1: stream takes keys of its own, and not a list",
    "trainer: {strategy: {class_path: adastate.distributed.ZeroStrategy, init_args: {stage: 4}}}": "have stage 4",
}

SMALL = "--config conf/base.yaml --config conf/sizes/tiny.yaml --run.dir=nowhere"
WAN = "--config conf/base.yaml --config conf/sizes/wan_1_3b.yaml"
FETCH = "`hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers --local-dir weights/Wan2.1-T2V-1.3B-Diffusers` fetches them"

COMMANDS = {  # other commands, and what earlier stages have not made
    f"fit {SMALL} --config conf/stages/distill.yaml": '`make train-init RUN="nowhere"` makes them',
    f"fit {SMALL} --config conf/stages/init.yaml": "no trajectories at nowhere/trajectories; `make trajectories RUN=",
    "fit --config conf/base.yaml --config conf/stages/distill.yaml": (
        "distill.yaml, line 12: Interpolation key 'teacher_size' not found; give --config conf/sizes/tiny.yaml"
    ),
    "fit --config conf/sizes/tiny.yaml --config conf/stages/distill.yaml": "not found; give --config conf/base.yaml",
    f"fit {WAN} --config conf/stages/init.yaml": FETCH,
    f"fit {WAN} --config conf/stages/teacher.yaml --training.teacher.weights=weights/Wan2.1-T2V-14B-Diffusers": (
        "`hf download Wan-AI/Wan2.1-T2V-14B-Diffusers --include"
    ),
    f"fit {SMALL} --config conf/stages/teacher.yaml --training.teacher.weights=gone.pt": "no weights at gone.pt; give",
    f"fit {SMALL} --config conf/stages/teacher.yaml --run.dir=README.md": (
        "the run folder README.md/teacher cannot be written (Not a directory); set RUN=another/folder"
    ),
    "train --run README.md/x": "cannot write to README.md/x (Not a directory); set RUN=another/folder",
    "train --run /proc": "cannot write to /proc (No such file or directory); set RUN=another/folder",
    "train --sise tiny": "there is no option '--sise'; did you mean '--size'",
    "train --size tny": "--size cannot be 'tny'; did you mean 'tiny'",
    "train --run": "--run has nothing after it: expected one argument",
    "train --clips many": "--clips: 'many' is no whole number",
    "train --preset long": "--preset cannot be 'long'; known are default, full",
    "train --world plane": "--world cannot be 'plane'; did you mean 'plain'",
    "train --system longlve": "no system 'longlve'; did you mean 'longlive'",
    "train --run.iteratons=5": "run has no 'iteratons'; did you mean 'iterations'",
    "train --model.horizon_wieght=5": "has no 'horizon_wieght'",
    "train --size wan_1_3b": "docs/guide/wan.md has the commands",
    "trian": "no command 'trian'; did you mean 'train'",
    f"fit {SMALL} --config conf/sizes/flight.yaml": "tiny and flight are several sizes: a run has one, so give one of",
    "fit": "give --config conf/base.yaml, one of conf/sizes/ and one of conf/stages/",
    "fit --config": "--config needs a file",
}

DRIVER = """
import contextlib, io, json, sys
from adastate.main import main

answers = []
for words in json.load(sys.stdin):
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
        try:
            main(words)
        except SystemExit as end:
            said = end.code if isinstance(end.code, str) else told.getvalue().strip()
        except BaseException as error:
            said = f"TRACEBACK {error!r}"
        else:
            said = "went on"
    answers.append(said + (" TORCH" if "torch" in sys.modules else ""))
    if answers[-1].endswith("TORCH"):
        break
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each row that is asked for is answered with, by one process that must never import torch."""
    folder = tmp_path_factory.mktemp("mistakes")
    begin = [*DISTILL, f"--run.dir={folder}/run"]
    asked = {row: ["fit", *begin, row] for row in READ} | {row: row.split() for row in COMMANDS}
    for i, text in enumerate(FILES):
        (folder / str(i)).mkdir()
        (folder / str(i) / "own.yaml").write_text(text, encoding="utf-8")
        asked[text] = ["fit", *begin, "--config", str(folder / str(i) / "own.yaml")]
    wanted = {item.callspec.params.get("row") for item in request.session.items if hasattr(item, "callspec")}
    asked = {row: words for row, words in asked.items() if row in wanted}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], input=json.dumps([*asked.values()]), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(asked, json.loads(done.stdout), strict=False))


@pytest.mark.parametrize("row", thinned([*READ, *FILES, *COMMANDS], every=2))
def test_mistakes_that_the_text_decides(row: str, answers: dict[str, str]) -> None:
    told = answers.get(row, "an earlier row imported torch")
    assert told.startswith("adastate") and (READ | FILES | COMMANDS)[row] in told and "TORCH" not in told, told
    assert "\n" not in told or row.startswith("trian"), told


MADE = {  # found when what it is for is made
    f"{STUDENT}.weights=gone.safetensors": "no weights at gone.safetensors",
    f"{STUDENT}.codec.init_args.weights=gone.safetensors": "no codec weights at gone.safetensors",
}


def said(arguments: list[str]) -> str:
    """What the command ends with."""
    with pytest.raises(SystemExit) as end:
        main(["fit", *arguments])
    return str(end.value)


@pytest.mark.parametrize("word", MADE)
def test_mistakes_that_show_when_it_is_made(word: str, tmp_path: Path) -> None:
    start = [] if word.startswith(f"{STUDENT}.weights") else [f"{STUDENT}.weights=builtin"]
    told = said([*DISTILL, f"--run.dir={tmp_path}", *start, word])
    assert told.startswith("adastate: ") and MADE[word] in told and "\n" not in told, told
    lock = tmp_path / "distill" / "run.lock"
    assert not lock.exists() or not lock.read_bytes(), "a run that ended in a sentence holds its folder no longer"


def test_no_gpu_where_one_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the machine's drivers, before torch is imported; where there is one and torch finds no GPU, by torch."""
    words = [*DISTILL, f"--run.dir={tmp_path}", f"{STUDENT}.weights=builtin", "--trainer.accelerator=gpu"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES= hides every GPU; leave it at auto" in said(words)
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    monkeypatch.setattr("adastate.config.hardware.why_none", lambda: "")
    assert "torch finds no GPU here; leave trainer.accelerator at auto" in said(words)
