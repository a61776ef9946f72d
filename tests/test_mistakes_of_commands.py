"""What people type wrongly after other commands than `fit` is answered as test_mistakes.py has it: in one sentence that
names the remedy, before torch is imported.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest

from tests.test_mistakes import DRIVER

PROMPT = "--prompt 'a red ball bounces'"
TINY = "--config conf/base.yaml --config conf/sizes/tiny.yaml"

ROWS = {
    # options and words
    f"generate {PROMPT} --second 5": "there is no option '--second'; did you mean '--seconds'",
    f"generate {PROMPT} --see 5": "there is no option '--see'; did you mean '--seed'",
    "evaluate --sequence-parallel 2": "ranks share a sample in `adastate fit`, `generate` and `live`",
    "generate a red ball": "there is no option 'a': values follow their options, and text with spaces needs quotes",
    # words of other tools, and options that have to be there
    "generate --num_frames 81": "there is no option '--num_frames'; did you mean '--seconds'",
    "generate --text cat": "there is no option '--text'; did you mean '--prompt'",
    "generate --ckpt x.pt": "there is no option '--ckpt'; did you mean '--weights'",
    "generate --output x": "there is no option '--output'; did you mean '--out'",
    "shards --videos conf --frames 21": "there is no option '--frames'; did you mean '--pictures'",
    "compare --baselines longlive": "there is no option '--baselines'; did you mean '--systems'",
    "weights push x a/b --licence mit": "there is no option '--licence'; did you mean '--license'",
    "weights export builtin out --layuot wan": "there is no option '--layuot'; did you mean '--layout'",
    "cameras w-3 out --fromat minwm": "there is no option '--fromat'; did you mean '--format'",
    "generate --sequence-parallel 3": "4 heads are not divisible by it: use one of 1, 2, 4",
    "live --sequence-parallel 3": "4 heads are not divisible by it: use one of 1, 2, 4",
    "generate --prompt '0: a' --prompt '10: b'": "'0: a' begins like a time: write '0s: ...', with an s and a colon",
    "generate --fp8=true": "--fp8 takes no value: leave out =true",
    "generate --out flight.mp4": "--out flight.mp4 names a file: give the folder that the videos shall lie in",
    "completion fish": "shell cannot be 'fish'; known are bash, zsh",
    "train --epochs 3": "there is no option '--epochs'; did you mean '--run.iterations'",
    "train --gpus 2": "there is no option '--gpus'; did you mean '--trainer.devices'",
    "train --resume": "no option '--resume': the same command again resumes what is not done; leave it out",
    "fit conf/base.yaml": "'conf/base.yaml' does not belong to an option: give --config conf/base.yaml",
    # cameras
    "cameras README.md out --format minwm": "README.md is no string of keys, and no file that is read here: give one",
    "cameras conf out --format sana-wm": "conf is no string of keys, and no file that is read here: give one of .npy",
    "cameras none out --format lingbot": "there is no folder none: give the folder that holds poses.npy",
    "cameras rihgt-2 out --format hy-worldplay": "asks for 'rihgt': did you mean 'right'",
    "cameras README.md out --format matrix-game": "README.md is no file of arrays: give one of .npy",
    f"generate {PROMPT} --layout vbnch": "--layout cannot be 'vbnch'; did you mean 'vbench'",
    f"generate {PROMPT} --engine graf": "--engine cannot be 'graf'; did you mean 'graph'",
    f"generate {PROMPT} --attention flash2": "--attention cannot be 'flash2'; did you mean",
    f"generate {PROMPT} --seconds 0": "--seconds: 0 will not do; give a number above 0",
    f"generate {PROMPT} --seconds ten": "--seconds: 'ten' is no number",
    f"generate {PROMPT} --seconds inf": "--seconds: inf will not do; give a number above 0",
    f"generate {PROMPT} --seed 1.5": "--seed cannot be '1.5'; it takes a whole number",
    f"generate {PROMPT} --batch 0": "--batch: 0 is too small; give at least 1",
    f"generate {PROMPT} --most -1": "--most: -1 is too small; give at least 1",
    f"generate {PROMPT} --device gpu": "there is no device 'gpu'; say cuda",
    f"generate {PROMPT} --device cuda1": "there is no device 'cuda1'; give cpu, cuda, or cuda:1 for the second",
    f"generate {PROMPT} --device cuda": "--device cuda: CUDA_VISIBLE_DEVICES= hides every GPU; leave --device out",
    "generate --prompt": "--prompt has nothing after it",
    # what is empty, as a variable of the shell that is not set
    "generate --prompt ''": "--prompt is empty: give a value, or leave it out",
    "generate --prompt '  '": "--prompt is empty",
    "generate --prompt=": "--prompt is empty",
    f"generate {PROMPT} --run ''": "--run is empty",
    f"generate {PROMPT} --weights=": "--weights is empty",
    f"generate {PROMPT} --out ''": "--out is empty",
    "weights inspect ''": "a word is empty",
    f"generate {PROMPT} --stream.past_frames": "--stream.past_frames has no value: give --stream.past_frames=VALUE",
    f"generate {PROMPT} --stream.past_frames --seconds 3": "--stream.past_frames has no value",
    # what cannot be written
    f"generate {PROMPT} --out /proc/x": "cannot write to /proc/x (no file can be made there); give another folder with",
    f"generate {PROMPT} --out /dev/null": "cannot write to /dev/null (/dev/null is not a folder)",
    f"generate {PROMPT} --out /dev/null/x": "cannot write to /dev/null/x (/dev/null is not a folder)",
    f"generate {PROMPT} --out {'a' * 300}": f"(the name {'a' * 20}... is too long); give another folder with --out",
    f"trajectories {TINY} --out /proc/x": "cannot write to /proc/x (no file can be made there)",
    "weights export builtin /proc/x --layout diffusers": "cannot write to /proc (no file can be made there)",
    "weights import builtin /proc/x.safetensors": "cannot write to /proc (no file can be made there)",
    "cameras w-3 /proc/x --format hy-worldplay": "cannot write to /proc/x (no file can be made there)",
    "cameras w-3 out.npy --format hy-worldplay": "name it out.actions.npy, or give a folder",
    "cameras w-99999999999 out --format hy-worldplay": "'w-99999999999' asks for more than 1,000,000 rows: give fewer",
    "shards --world plain --out /proc/x": "cannot write to /proc/x (no file can be made there)",
    "shards --fetch-clips /proc/x": "cannot write to /proc/x (no file can be made there)",
    "study --out /proc/x": "cannot write to /proc/x (no file can be made there)",
    # what belongs to something else
    "shards --world plain --videos conf": "--videos and --world are two sources of clips: give one of them",
    "shards --world plain --height 64": "--height is not for --world: leave it out",
    "shards --videos conf --clips 5": "--clips is not for --videos: leave it out",
    f"generate {PROMPT} --seconds 1e9": "--seconds 1e+09 is more than 1,000,000, eleven days: give less",
    f"generate {PROMPT} --device mps": "--device mps: that is for Macs; leave --device out",
    "generate -p cat": "there is no option '-p'; did you mean '--prompt'",
    # what is on the Hub, and files of another kind
    f"generate {PROMPT} --weights anna/student": "weights pull anna/student FOLDER` brings what lies on",
    f"generate {PROMPT} --weights https://huggingface.co/anna/student/resolve/main/x.pt": "weights pull anna/student",
    f"generate {PROMPT} --run anna/student": "or the one that `adastate weights pull anna/student FOLDER` brings",
    f"generate {PROMPT} --weights README.md": "README.md is text ('# adastate adastate trains and runs",
    "weights inspect README.md": "README.md is text",
    "train --teacher README.md": "README.md is text",
    "train --data conf": "adastate train: no video in conf; other files, not read: ",
    "shards --videos conf": "adastate shards: no video in conf; other files, not read: ",
    "train --data none": "no folder none: give the one that holds the videos, world or clips",
    "weights pull https://huggingface.co/a/b out": "is not the name of a repository: it has the form owner/name",
    "weights pull a/b /proc/x": "cannot write to /proc/x (no file can be made there)",
    "weights push none a/b": "there is no none: give a run folder, or a .safetensors file of our own",
    # files and folders
    "generate --prompts six.txt": "there is no file of prompts six.txt: give a text file with one prompt per line",
    "generate --prompts conf": "conf is a folder; give a text file with one prompt per line",
    "generate --prompts empty.txt": 'no prompt; give --prompt "..." or --prompts file',
    f"generate {PROMPT} --image sun.png": "there is no picture sun.png: give one, or a folder of them",
    f"generate {PROMPT} --latents before.npy": "there is no file of latents before.npy",
    f"generate {PROMPT} --run runs/none": "runs/none is not a run folder: it has no distill/config.yaml",
    f"generate {PROMPT} --weights none.pt": "no weights at none.pt; give a .safetensors file",
    f"generate {PROMPT} --weights none.pt --size tny": "no size 'tny'",
    f"generate {PROMPT} --size wan_1_3b": "no student of the size wan_1_3b is bundled: give --weights FILE",
    f"generate {PROMPT} --system longlve": "no system 'longlve'; did you mean 'longlive'",
    f"generate {PROMPT} --stream.past_frame=3": "stream has no 'past_frame'; did you mean 'past_frames'",
    # what does not go together
    f"generate {PROMPT} --samples 2": "--samples belongs to --layout vbench",
    f"generate {PROMPT} --prompts-extended conf/base.yaml": "goes line by line with --prompts alone",
    "generate --prompt '0s: a' --prompt b": "0s",
    f"generate {PROMPT} --actions up": "'up' asks for 'up': actions are straight, left, right",
    # what goes by another name elsewhere, or has no place here
    f"generate {PROMPT} --guidance_scale 5": "'--guidance_scale'; a distilled student takes no guidance",
    f"generate {PROMPT} --num_inference_steps=4": "the weights determine the denoising steps: leave it out, or try",
    f"generate {PROMPT} --fps 24": "the weights determine the frame rate: leave it out",
    f"generate {PROMPT} --width 512": "the weights determine the size of the video: leave it out",
    f"generate {PROMPT} --lora x.safetensors": "`adastate weights import LORA out.safetensors --base WEIGHTS`",
    f"generate {PROMPT} --config conf/base.yaml": "a run folder has its own configuration (--run); weights without one",
    f"generate {PROMPT} --codec.init_args.fps=0": "fps is 0; it has to be at least 1",
    "live --prompt a": "no option '--prompt'; prompts, seeds, first frames and actions are given on the page",
    "live --open": "the command prints the address of its page: open that",
    "live --host lab.example": "or more with --token (`adastate live --help` lists what it accepts)",
    f"rehearse {TINY} --config conf/stages/distill.yaml --zero 2": "'--zero'; use --config conf/strategy/zero2.yaml",
    f"rehearse {TINY} --config conf/stages/distill.yaml --memory 80": "the GPU determines it: give --device",
    f"plan {TINY} --config conf/stages/distill.yaml --sp 2": "every degree that is possible is planned: leave it out",
    "train --config conf/base.yaml": "the pipeline has its own files of conf/: change keys by --KEY=VALUE",
    "train --overwrite": "a stage whose settings have changed begins anew by itself",
    "compare longlive memrope": "it takes no 'longlive' here; values follow their options, --systems longlive",
    "fit distill": "'distill' does not belong to an option: give --config conf/stages/distill.yaml",
    "fit --stage distill": "--stage is not an option of `adastate fit`: use --config conf/stages/distill.yaml",
    # numbers with units, and words for files and folders
    f"generate {PROMPT} --seconds 5s": "--seconds: '5s' is no number: write 5",
    f"generate {PROMPT} --seconds 1:30": "--seconds: '1:30' is no number: write 90",
    f"generate {PROMPT} --seconds 5,5": "--seconds: '5,5' is no number: write 5.5",
    f"generate {PROMPT} --batch 1,000": "--batch: '1,000' is no whole number: write 1000",
    f"plan {TINY} --config conf/stages/distill.yaml --memory 80GB": "--memory: '80GB' is no number: write 80",
    "cameras w-3 flight.mp4 --format hy-worldplay": "flight.mp4 names a file: give a folder, or flight.actions.npy",
    "cameras w-3 out --format matrix-game": "strings of keys are read by --format hy-worldplay, minwm, sana-wm and",
    "cameras wrong/none.json out --format hy-worldplay": "there is no file wrong/none.json: give one that is there",
    "cameras a*3 out --format minwm --size 0x480": "--size is '0x480': write width and height, 832x480",
    "weights import tiny_student out": "does not end in .safetensors, the format of our own files: name it out.safeten",
    "weights export tiny_student out.safetensors --layout wan": "a folder, and out.safetensors names a file: give out",
    "weights export tiny_student README.md --layout wan": "README.md is a file, and an export is a folder: give",
    "weights export tiny_student out --layout diffusers-pipeline --parts none": "there is no folder none",
    "weights push conf a/b": "conf has no student.safetensors: give a run folder, or a",
    "weights push tests/data a/b --dry-run conf": "tests/data has no student.safetensors: give a run",
    "weights pull a/b README.md": "README.md is a file: give a folder",
    "compare --systems longlive longlive": "longlive is named twice: leave one of them out",
    "fit --config .ci": ".ci is a folder without a .yaml file: name a file",
    "shards --videos README.md": "README.md is a file: give the folder that holds the videos",
    "train --data README.md": "README.md is a file: give the folder that holds the videos",
    "train --teacher conf": "conf holds no weights: give a teacher's .safetensors file",
    "train --data conf --teacher tests/data": "a teacher is trained on these clips: leave out --teacher tests/data",
    "train --run.dir=x": "--run.dir is not for the pipeline: the folder is given by --run; leave it out",
    "train --run.stage=x": "--run.stage is not for the pipeline: each stage names itself; leave it out",
    "weights import tiny_student x.safetensors --difference-from none.safetensors": "goes with 8 bits: give",
    "weights import tiny_student x.safetensors --dtype int8 --difference-from no.pt": "no weights at no.pt: give",
    f"generate {PROMPT} --student.weights=x.pt": "'--student.weights=x.pt' is for training; give --weights",
    f"generate {PROMPT} --run.seed=3": "'--run.seed=3' is for training; give --seed",
    f"generate {PROMPT} --teacher.guidance=3": "'--teacher.guidance=3' is for training; a stream is configured by keys",
    f"plan {TINY} --config conf/stages/distill.yaml --config conf/stages/init.yaml": "are several stages: a command",
    "live --token": "'--token' has nothing after it: expected one argument",
    "live --token ''": "'--token' is empty: give a value, or leave it out",
    # what files hold, and what comes after the end
    f"generate {PROMPT} --image empty.txt": "empty.txt cannot be read as a picture: save it as a PNG or JPEG",
    f"generate {PROMPT} --image conf": "conf holds no picture: give a file, or a folder of files that end in .png",
    f"generate {PROMPT} --latents conf": "conf is a folder: give a file of latents, .safetensors, .npy, .pth, .pt",
    f"generate {PROMPT} --latents README.md": "README.md is not a file of latents: .safetensors",
    f"generate {PROMPT} --actions left": "leave out --actions, or take one that can, as --size flight",
    f"generate {PROMPT} --size flight --actions lefft": "'lefft' asks for 'lefft': did you mean 'left'?",
    f"generate {PROMPT} --size flight --actions left,climb": "several actions are joined by +, left+climb",
    f"generate {PROMPT} --size flight --actions halves.npy": "halves.npy holds no actions: one row of 0 and 1",
    f"generate {PROMPT} --size flight --actions '0s: left' --actions '9s: right' --seconds 4": "(--seconds), or",
    "generate --prompt '0s: a' --prompt '9s: b' --seconds 4": "make it longer (--seconds), or leave the prompt out",
    f"generate {PROMPT} --engine graph": "--engine graph: CUDA_VISIBLE_DEVICES= hides every GPU; take --engine compile",
    f"generate {PROMPT} --engine graph --device cpu": "--engine graph: a CPU has no graphs; take --engine compile",
    # fit, train
    f"fit {TINY} --allow_change": "--allow_change needs keys: give those that may change",
    f"fit {TINY} --ckpt_path=auot": "no checkpoint at auot; did you mean 'auto'",
    f"fit {TINY} --ckpt_path runs/none": "no checkpoint at runs/none; give auto, last, best, or the folder of one",
    f"fit {TINY} --ckpt_path --overwrite": "--ckpt_path needs a checkpoint",
    f"fit {TINY} --overwrite tiny": "'tiny' does not belong to an option",
    "fit --config --config conf/base.yaml": "--config needs a file",
    "train --teacher none.safetensors": "no teacher at none.safetensors: give builtin, scratch to train one, or",
    "train --init ode": "--init ode is for --preset full",
    "train extra": "there is no option 'extra': values follow their options",
    # live
    "live --port 99999": "--port is 99999; ports are numbers up to 65535",
    "live --host 0.0.0.0": "admits other machines: set a token of 16 characters or more with --token",
    "live --run runs/none": "runs/none is not a run folder",
    "live --sessions 0": "--sessions: 0 is too small; give at least 1",
    # evaluate, compare
    "evaluate --run runs/none": "runs/none is not a run folder",
    "evaluate --prompts six.txt": "there is no file of prompts six.txt",
    "evaluate --rollouts 0": "--rollouts: 0 is too small; give at least 1",
    "evaluate --horison 2": "there is no option '--horison'; did you mean '--horizon'",
    "evaluate --raft raft.pth": "there is no file of RAFT's weights raft.pth",
    "compare --systems longlve": "no system 'longlve'; did you mean 'longlive'",
    "compare --systems own.yaml": "no config file own.yaml",
    "compare --systems longlive,memrope": "'longlive,memrope' has commas: put blanks between the names of systems",
    "compare --systems as trained": "'as' is a part of a name: put quotes around it, \"as trained\"",
    "compare --systems 'as traned'": "no system 'as traned'; did you mean 'as trained'",
    "compare --systems conf/strategy/ddp.yaml": "conf/strategy/ddp.yaml has no stream block, so it describes no system",
    "generate --system 'as trained'": "'as trained' is what a stream is without --system: leave that out",
    "compare --shown 0": "--shown: 0 is too small; give at least 1",
    # trajectories
    "trajectories": "give --config conf/base.yaml and one of conf/sizes/, whose teacher makes the trajectories",
    f"trajectories {TINY} --clips 0": "--clips: 0 is too small; give at least 1",
    f"trajectories {TINY} --solver unpc": "--solver cannot be 'unpc'; did you mean 'unipc'",
    f"trajectories {TINY} --levels some": "--levels takes timesteps, or the one word 'every'; got some",
    f"trajectories {TINY} --past shards": "--past goes with --teacher causal",
    f"trajectories {TINY} --teacher causal --run.dir=x": "no weights of an autoregressive network at x/ar.safetensors",
    f"trajectories {TINY} --weights ar.safetensors": "--weights is for --teacher causal",
    f"trajectories {TINY} --teacher.weights=none.safetensors": "no weights at none.safetensors",
    f"trajectories {TINY} --run.wrld=plain": "run has no 'wrld'; did you mean 'world'",
    # plan
    f"plan {TINY}": "these config files contain no stage: add one of conf/stages/",
    f"plan {TINY} --config conf/stages/distill.yaml --gpu 8": "there is no option '--gpu'; did you mean '--gpus'",
    f"plan {TINY} --config conf/stages/distill.yaml --data.batch=one": "cannot have batch 'one'; it takes a whole",
    f"plan {TINY} --strategy zero2": "--strategy is not an option of `adastate plan`: use --config conf/strategy/zero2",
    f"rehearse {TINY} --stage distill": "`adastate rehearse`: use --config conf/stages/distill.yaml",
    f"rehearse {TINY} --config conf/stages/distill.yaml --rank 1": "there is no rank 1 on 1 machines with 1 GPUs each",
    f"plan {TINY} --gpus 0": "--gpus: 0 is too small; give at least 1",
    f"plan {TINY} --memory eighty": "--memory: 'eighty' is no number",
    f"plan {TINY} --zero 4": "--zero cannot be '4'; known are 0, 1, 2, 3, 3_teacher",
    "plan --config conf/sizes/tny.yaml": "no config file conf/sizes/tny.yaml; did you mean conf/sizes/tiny.yaml",
    # study, weights, parity, shards, completion
    "study reprt": "no subcommand 'reprt'; did you mean 'report'",
    "study --budget shrt": "no budget 'shrt'; did you mean 'short'",
    "study --jobs 0": "--jobs: 0 is too small; give at least 1",
    "study run stae 0": "no arm 'stae'; did you mean 'state'",
    "study run state -1": "seed: -1 is too small; give at least 0",
    "study --only corr": "no group 'corr'; did you mean 'core'",
    "study --record /proc/x": "cannot write to /proc/x (no file can be made there); give another folder with --record",
    "study report --out none": "no measured study at none: run `make study` first",
    "study decide --records none": "no records in none: `make study` writes them",
    "study decide --records wrong": "none.json is not a record of a run: give the folder that `make study` wrote",
    "study measure --run none": "none is not a run folder",
    "study real --out x --codec none": "no weights at none",
    "study intervene --run none": "none is not a run folder",
    "study intervene --checkpoint conf": "--checkpoint goes with --run",
    "study gate --world fog --json conf": "cannot write to conf (it is a folder); give a file elsewhere with --json",
    "study measure": "the following arguments are required: --run",
    "weights": "the following arguments are required: inspect|import|export",
    "weights inspct x": "cannot be 'inspct'; did you mean 'inspect'",
    "weights inspect tiny_studnt": "no weights at tiny_studnt; did you mean tiny_student, which ships",
    "weights push README.md a/b": "README.md is text",
    "weights inspect none.pt": "no weights at none.pt",
    "weights export builtin out": "the following arguments are required: --layout",
    "weights import builtin x.safetensors --dtype bf16": "--dtype cannot be 'bf16'; did you mean 'bfloat16'",
    "parity none": "there is no folder none: give the one that contains the fixtures",
    "parity conf": "no fixtures in conf: a fixture is a folder with meta.json",
    "shards": "give a source of clips: --videos FOLDER, --world NAME or --fetch-clips FOLDER",
    "shards --videos none": "there is no folder of videos none",
    "shards --world plane": "--world cannot be 'plane'; did you mean 'plain'",
    "shards --world plain --clips 1e3": "--clips: '1e3' is no whole number",
    "shards --world plain --fps 0": "--fps: 0 will not do; give a number above 0",
    "completion powershell": "shell cannot be 'powershell'; known are bash, zsh",
}  # fmt: skip


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each row is answered with, by one process that must never import torch."""
    empty = tmp_path_factory.mktemp("prompts") / "empty.txt"
    empty.write_text("\n\n")
    wrong = tmp_path_factory.mktemp("wrong")
    (wrong / "none.json").write_text("{}")
    np.save(wrong / "halves.npy", np.full((4, 8), 0.5))
    files = {"empty.txt": str(empty), "wrong": str(wrong), "halves.npy": str(wrong / "halves.npy")}
    asked = [[files.get(word, word) for word in shlex.split(row)] for row in ROWS]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(ROWS, json.loads(done.stdout), strict=False))


@pytest.mark.parametrize("row", ROWS)
def test_mistakes_after_other_commands(row: str, answers: dict[str, str]) -> None:
    told = answers.get(row, "an earlier row imported torch")
    assert told.startswith("adastate") and ROWS[row] in told and "TORCH" not in told, told
    assert "\n" not in told, told
