# `make help` lists the targets. Everything runs in .venv, which the first target sets up by itself.
SHELL   := /bin/bash
PYTHON  ?= python3
# plain, or flight (docs/guide/flight.md); of a study mist, circuit, journey, fog or plain
WORLD   ?=
SIZE    ?= $(if $(filter flight,$(WORLD)),flight,tiny)
RUN     ?= runs/$(if $(filter flight,$(SIZE)),flight,tiny)
DATA    ?= world
TEACHER ?= builtin
PRESET  ?= default
SYSTEM  ?=
ARGS    ?=
VIDEOS  ?=
LATENTS ?=
RECIPE  ?=
# of a rehearsal: teacher, init, distill, stream or live, and h100, h200, a100 or b200
STAGE   ?= distill
REHEARSED = $(if $(filter stream live,$(STAGE)),distill,$(STAGE))
DEVICE  ?=
STRATEGY ?=
SP      ?=
OUT     ?= $(RUN)/shards
FIXTURES ?= tests/data
PORT    ?= 6006
BUDGET  ?= short
JOBS    ?=
# Threads that wait by spinning starve each other on a machine with few cores.
export OMP_WAIT_POLICY ?= passive
# but sleeping at once costs as much as a short operation: first they look out for the next one, for a moment
export GOMP_SPINCOUNT ?= 3000

ADASTATE := .venv/bin/adastate
# SLURM=1 hands a training target to the cluster (docs/guide/slurm.md)
NODES     ?= 1
GPUS      ?= 1
VARIABLES := NODES GPUS TASKS CPUS PARTITION TIME ACCOUNT SBATCH RUN
TRAIN      = $(if $(SLURM),env $(foreach v,$(VARIABLES),$(if $($(v)),$(v)="$($(v))")) conf/slurm.sh submit,$(ADASTATE))
# wan_14b is a larger teacher over wan_1_3b
CONFIG    = $(if $(filter journey fog circuit mist,$(WORLD)),$(error WORLD=$(WORLD) is a world of the study: make study WORLD=$(WORLD)))--config conf/base.yaml $(if $(filter wan_14b,$(SIZE)),--config conf/sizes/wan_1_3b.yaml) --config conf/sizes/$(SIZE).yaml \
	$(if $(SYSTEM),--system $(SYSTEM))
# each word of RECIPE is a file of conf/recipes/, one over the other
RECIPES   = $(foreach word,$(RECIPE),--config conf/recipes/$(1)_$(word).yaml)
# STRATEGY=zero2, fsdp2, ...: how the networks are shared out; SP=2: ranks that share a sample (docs/guide/scale.md)
SHARDED   = $(if $(STRATEGY)$(SP),--config conf/strategy/$(or $(STRATEGY),ddp).yaml) \
	$(if $(SP),--trainer.strategy.init_args.sequence_parallel=$(SP))
TINY := $(if $(filter tiny flight,$(SIZE)),--config conf/stages/distill_tiny.yaml)
TINY += $(if $(filter flight,$(SIZE)),--config conf/stages/distill_flight.yaml)
FLIGHT := $(if $(filter flight,$(SIZE)),--config conf/stages/codec_flight.yaml)

# What stands on make's command line and is known to nobody, or of no use for the target, is a mistake. Variables of the
# environment are left alone, and those that are meant for it and told here are known by how they begin.
STAGES  := train-codec train-teacher train-init train-distill
ONE_NET := rehearse train-teacher train-init train-distill
TAKEN   := DATA/train TEACHER/train PRESET/train STAGE/rehearse DEVICE/rehearse VIDEOS/shards LATENTS/shards OUT/shards \
	BUDGET/study BUDGET/study-report JOBS/study FIXTURES/parity PORT/tensorboard PYTHON/install NODES/rehearse GPUS/rehearse \
	$(foreach t,train plan rehearse trajectories $(STAGES),SYSTEM/$(t)) RECIPE/trajectories $(ONE_NET:%=RECIPE/%) \
	$(ONE_NET:%=STRATEGY/%) $(ONE_NET:%=SP/%) SP/generate SP/live \
	$(if $(SLURM),$(foreach t,train trajectories $(STAGES),$(VARIABLES:%=%/$(t))))
ANYWHERE := RUN ARGS WORLD SIZE SLURM SHELL
KNOWN   := $(sort $(ANYWHERE) $(VARIABLES) $(foreach pair,$(TAKEN),$(firstword $(subst /, ,$(pair)))))
FOREIGN := %_VISIBLE_DEVICES OMP_% GOMP_% MKL_% KMP_% CUDA_% NCCL_% GLOO_% TORCH% PYTORCH_% PYTHON% HF_% XDG_% WANDB_% MLFLOW_% \
	ADASTATE_% SLURM_% DS_% PIP_% LC_% LANG CC CXX TMPDIR HOME PATH COLUMNS TERM %_proxy %_PROXY
WORLDS  := plain flight mist circuit journey fog
TOLD    := $(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(v)))),$(if $($(v)),$(v))))
GOAL    := $(or $(firstword $(MAKECMDGOALS)),generate)
option   = --$(shell echo '$(1)' | tr A-Z_ a-z-)
nearest  = $(shell $(PYTHON) -c 'import difflib, sys; print(*difflib.get_close_matches(sys.argv[1].upper(), sys.argv[2:], 1, 0.7))' '$(1)' $(KNOWN))
in_args  = options of a command go into ARGS, as in make $(GOAL) ARGS='$(option) ...'
for_whom = $(if $(filter $(VARIABLES),$(1)),it goes with SLURM=1$(if $(filter GPUS,$(1)),; those of this machine are ARGS=$(if $(filter trajectories,$(GOAL)),--devices,--trainer.devices)=$(GPUS)),make \
	$(patsubst $(1)/%,%,$(filter $(1)/%,$(TAKEN))) takes it$(if $(filter STRATEGY RECIPE SP SYSTEM STAGE,$(1)),,; $(in_args)))
refuse   = $(error there is no variable $(1): $(if $(2),did you mean $(2)?,$(in_args)))
$(foreach v,$(filter-out $(KNOWN) $(FOREIGN),$(TOLD)),$(call refuse,$(v),$(call nearest,$(v))))
$(if $(filter-out $(WORLDS),$(WORLD)),$(error there is no WORLD=$(WORLD): known are $(WORLDS)))
$(foreach v,$(if $(MAKECMDGOALS),$(filter-out $(ANYWHERE),$(filter $(KNOWN),$(TOLD)))),$(if $(filter $(MAKECMDGOALS:%=$(v)/%),$(TAKEN)),,$(error \
	make $(MAKECMDGOALS) has no use for $(v)=$($(v)): $(call for_whom,$(v)))))
$(if $(filter generate live,$(MAKECMDGOALS)),$(if $(filter RUN,$(TOLD)),,$(if $(filter-out tiny flight,$(SIZE)),$(error no student of \
	SIZE=$(SIZE) comes with the project: give RUN=FOLDER, or ARGS='--weights FILE --size $(SIZE)'))))

.PHONY: help install train test test-slow lint format plan rehearse shards trajectories train-codec train-teacher train-init \
	train-distill generate live evaluate compare study study-report parity faults mutate bench bench-stages results gpu-check tensorboard docs slurm-lab slurm-lab-stop clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  \033[1m%-16s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; echo "  variables: RUN=$(RUN) SIZE=$(SIZE) WORLD=$(or $(WORLD),plain) DATA=$(DATA) TEACHER=$(TEACHER) ARGS=\"--stream.past_frames=6 ...\""

install: .venv/ready ## set up .venv

# torch goes first and alone, so that nothing drags in another build of it
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	DS_BUILD_OPS=0 .venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

train: install ## run the whole pipeline, from data to evaluated rollouts; WORLD=flight: flights that can be steered; PRESET=full: every kind of stage; SYSTEM=longlive: the stream of a compared system
	$(TRAIN) train --run "$(RUN)" --size $(SIZE) $(if $(WORLD),--world $(WORLD)) --data "$(DATA)" --teacher "$(TEACHER)" --preset $(PRESET) $(if $(SYSTEM),--system $(SYSTEM)) $(ARGS)

# a file stays in one process, for what its tests share; tests/conftest.py says which files begin
PYTEST := OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: install ## run the fast tests; ARGS="-m minutes tests/launch/test_walltime.py": those that take minutes of wall time
	$(PYTEST) -m 'not slow and not minutes' $(ARGS)

test-slow: install ## run the rest of the tests: every strategy, every size, many kills
	$(PYTEST) -m 'slow and not minutes' $(ARGS)

lint: install ## run ruff, mypy, and hadolint for the Dockerfile
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/hadolint Dockerfile

format: install ## format the code with ruff
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

shards: install ## write shards to RUN/shards, where the stages read them: from VIDEOS=folder of captioned videos, or WORLD=flight ARGS="--clips 24000 --workers 2"; LATENTS=1 encodes them
	$(ADASTATE) shards $(if $(VIDEOS),--videos "$(VIDEOS)",$(if $(WORLD),--world $(WORLD))) $(if $(LATENTS),--latents) --out "$(OUT)" $(ARGS)

plan: install ## memory, steps and FLOP of the distillation, and whether it fits; ARGS='--gpus 8 --memory 80'
	$(ADASTATE) plan $(CONFIG) --config conf/stages/distill.yaml $(TINY) --run.dir="$(RUN)" $(ARGS)

rehearse: install ## run one iteration of STAGE=distill (teacher, init; a chunk of stream, live) on a simulated cluster: memory, waits, mistakes; SIZE=wan_1_3b GPUS=8 STRATEGY=zero2
	$(ADASTATE) rehearse $(CONFIG) --config conf/stages/$(REHEARSED).yaml $(if $(filter distill,$(REHEARSED)),$(TINY)) $(call RECIPES,$(REHEARSED)) \
		$(SHARDED) $(if $(filter stream live,$(STAGE)),--what $(STAGE)) --gpus $(GPUS) --nodes $(NODES) $(if $(DEVICE),--device $(DEVICE)) --run.dir="$(RUN)" $(ARGS)

trajectories: install ## write the teacher's ODE paths; RECIPE=causal: those of ar.safetensors, chunk by chunk; ARGS="--devices 8"
	$(TRAIN) trajectories $(CONFIG) --run.dir="$(RUN)" $(if $(filter causal,$(RECIPE)),--teacher causal) $(ARGS)

train-codec: install ## train the tiny codec from scratch; WORLD=flight: that of the flight world
	$(TRAIN) fit $(CONFIG) --config conf/stages/codec.yaml $(FLIGHT) --run.dir="$(RUN)" $(ARGS)

train-teacher: install ## train the bidirectional teacher by flow matching; RECIPE="latents lora": on shards of latents, with adapters
	$(TRAIN) fit $(CONFIG) --config conf/stages/teacher.yaml $(call RECIPES,teacher) $(SHARDED) --run.dir="$(RUN)" $(ARGS)

train-init: install ## train the student's causal initialisation; RECIPE=ar_diffusion, consistency, ... (conf/recipes/)
	$(TRAIN) fit $(CONFIG) --config conf/stages/init.yaml $(call RECIPES,init) $(SHARDED) --run.dir="$(RUN)" $(ARGS)

train-distill: install ## distil by distribution matching on the student's own rollouts; RECIPE="long lora", ...; STRATEGY=zero2 SP=2 shards it (docs/guide/scale.md)
	$(TRAIN) fit $(CONFIG) --config conf/stages/distill.yaml $(TINY) $(call RECIPES,distill) \
		$(SHARDED) --run.dir="$(RUN)" $(ARGS)

# the bundled student is used until the run of a size has its own, unless RUN is given
FLOWN  = $(wildcard runs/flight/student.safetensors)
SHIPPED = $(filter file-runs/tiny $(if $(FLOWN),,file-runs/flight),$(origin RUN)-$(RUN))
SOURCE = $(if $(SHIPPED),$(if $(filter %flight,$(SHIPPED)),--size flight),--run "$(RUN)")
generate: install ## generate a video and show its hidden state, with RUN or the bundled student; ARGS='--prompt "..." --seconds 20 --states'
	$(ADASTATE) generate $(SOURCE) $(if $(SP),--sequence-parallel $(SP)) $(ARGS)

live: install ## serve a web page to type a prompt and watch, steer, rewind, with RUN or the bundled student; ARGS='--port 8000'
	$(ADASTATE) live $(SOURCE) $(if $(SP),--sequence-parallel $(SP)) $(ARGS)

evaluate: install ## measure rollouts of RUN at 1x and 6x
	$(ADASTATE) evaluate --run "$(RUN)" $(ARGS)

parity: install ## replay the recorded runs in FIXTURES and compare every tensor with the reference implementations
	$(ADASTATE) parity "$(FIXTURES)"

compare: install ## compare the student of RUN under every system, side by side, in RUN/compare/compare.html
	$(ADASTATE) compare --run "$(RUN)" $(ARGS)

study: install ## does the state do what it claims? BUDGET=smoke, teacher, short (three hours), ratios, systems, errors, explore; WORLD=mist or circuit (docs/guide/study.md)
	$(ADASTATE) study --budget $(BUDGET) --world $(or $(WORLD),mist) $(if $(JOBS),--jobs $(JOBS)) $(ARGS)

study-report: install ## rewrite the report from the completed runs of BUDGET
	$(ADASTATE) study report --budget $(BUDGET) --world $(or $(WORLD),mist) $(ARGS)

faults: install ## inject every kind of fault many times (kills, stops, damage, full disks, bad data) and print a table; ARGS="--share 0.1"
	.venv/bin/python benchmarks/faults.py $(ARGS)

mutate: install ## plant 300 small faults in the core modules, one at a time, and count those that no test detects; ARGS="--number 50 --file adastate/stream/cache.py"
	OMP_NUM_THREADS=1 .venv/bin/python benchmarks/mutate.py $(ARGS)

bench-stages: install ## measure what every stage of the tiny size contributes to the next one, from a finished RUN; prints a table
	.venv/bin/python benchmarks/stage_table.py --base "$(RUN)" $(ARGS)

results: install ## recompute the cheap numbers of the README and the documents, and print each next to the documented one, in minutes; ARGS="--only parity"
	.venv/bin/python benchmarks/remake_results.py $(ARGS)

bench: install ## measure streams and training steps on this machine, compared with a plain path; table and JSON
	.venv/bin/python benchmarks/bench.py $(ARGS)

gpu-check: install ## check and measure kernels, streams and a training step at 1.3B on the GPU of this machine, in five minutes; benchmarks/gpu.sh with another python
	.venv/bin/python benchmarks/gpu_check.py $(ARGS)

tensorboard: install ## start TensorBoard on all runs, with every image kept
	.venv/bin/tensorboard --logdir runs --port $(PORT) --samples_per_plugin images=100,scalars=10000 --reload_multifile true

docs: install ## build the documents as a site in site/, with the Python interface; broken links are errors
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict $(ARGS)

slurm-lab: ## start a real SLURM of one node on this machine, for testing; installs slurm-wlm and munge with apt-get
	@.ci/slurm-lab start

slurm-lab-stop: ## stop it and remove its folder
	@.ci/slurm-lab stop

clean: ## remove .venv, caches and the site; runs and data stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache site
