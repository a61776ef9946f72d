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

train: install ## the whole pipeline, from data to evaluated rollouts; WORLD=flight: flights that can be steered; PRESET=full: every kind of stage; SYSTEM=longlive: another's stream
	$(TRAIN) train --run "$(RUN)" --size $(SIZE) $(if $(WORLD),--world $(WORLD)) --data "$(DATA)" --teacher "$(TEACHER)" --preset $(PRESET) $(if $(SYSTEM),--system $(SYSTEM)) $(ARGS)

# a file stays in one process, for what its tests share; tests/conftest.py says which files begin
PYTEST := OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: install ## the tests without those of test-slow; ARGS="-m minutes tests/launch/test_walltime.py": what waits for a clock
	$(PYTEST) -m 'not slow and not minutes' $(ARGS)

test-slow: install ## the rest of the tests: every strategy, every size, many kills
	$(PYTEST) -m 'slow and not minutes' $(ARGS)

lint: install ## ruff, mypy, and hadolint for the Dockerfile
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/hadolint Dockerfile

format: install ## let ruff put things in order
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

shards: install ## VIDEOS=folder of videos with captions beside them, or WORLD=flight ARGS="--clips 24000 --workers 2" -> shards in RUN/shards, where the stages look; LATENTS=1 encodes them
	$(ADASTATE) shards $(if $(VIDEOS),--videos "$(VIDEOS)",$(if $(WORLD),--world $(WORLD))) $(if $(LATENTS),--latents) --out "$(OUT)" $(ARGS)

plan: install ## ARGS='--gpus 8 --memory 80' -> what the distillation takes: memory, steps, FLOP, what fits
	$(ADASTATE) plan $(CONFIG) --config conf/stages/distill.yaml $(TINY) --run.dir="$(RUN)" $(ARGS)

rehearse: install ## SIZE=wan_1_3b GPUS=8 STRATEGY=zero2 -> an iteration of STAGE=distill (teacher, init; a chunk of stream, live) on a pretended cluster: memory, waits, mistakes
	$(ADASTATE) rehearse $(CONFIG) --config conf/stages/$(REHEARSED).yaml $(if $(filter distill,$(REHEARSED)),$(TINY)) $(call RECIPES,$(REHEARSED)) \
		$(SHARDED) $(if $(filter stream live,$(STAGE)),--what $(STAGE)) --gpus $(GPUS) --nodes $(NODES) $(if $(DEVICE),--device $(DEVICE)) --run.dir="$(RUN)" $(ARGS)

trajectories: install ## the teacher's ODE paths; RECIPE=causal: those of ar.safetensors, chunk by chunk; ARGS="--devices 8"
	$(TRAIN) trajectories $(CONFIG) --run.dir="$(RUN)" $(if $(filter causal,$(RECIPE)),--teacher causal) $(ARGS)

train-codec: install ## the tiny codec from scratch; WORLD=flight: that of the flight world
	$(TRAIN) fit $(CONFIG) --config conf/stages/codec.yaml $(FLIGHT) --run.dir="$(RUN)" $(ARGS)

train-teacher: install ## the bidirectional teacher by flow matching; RECIPE="latents lora": on shards of latents, adapters
	$(TRAIN) fit $(CONFIG) --config conf/stages/teacher.yaml $(call RECIPES,teacher) $(SHARDED) --run.dir="$(RUN)" $(ARGS)

train-init: install ## the student's causal initialisation; RECIPE=ar_diffusion, consistency, ... (conf/recipes/)
	$(TRAIN) fit $(CONFIG) --config conf/stages/init.yaml $(call RECIPES,init) $(SHARDED) --run.dir="$(RUN)" $(ARGS)

train-distill: install ## distribution matching on own rollouts; RECIPE="long lora", ...; STRATEGY=zero2 SP=2 shards it (docs/guide/scale.md)
	$(TRAIN) fit $(CONFIG) --config conf/stages/distill.yaml $(TINY) $(call RECIPES,distill) \
		$(SHARDED) --run.dir="$(RUN)" $(ARGS)

# until the run of a size has a student of its own the one that ships serves, unless RUN is named
FLOWN  = $(wildcard runs/flight/student.safetensors)
SHIPPED = $(filter file-runs/tiny $(if $(FLOWN),,file-runs/flight),$(origin RUN)-$(RUN))
SOURCE = $(if $(SHIPPED),$(if $(filter %flight,$(SHIPPED)),--size flight),--run "$(RUN)")
generate: install ## a video with its hidden state, by RUN or by the student that ships; ARGS='--prompt "..." --seconds 20 --states'
	$(ADASTATE) generate $(SOURCE) $(if $(SP),--sequence-parallel $(SP)) $(ARGS)

live: install ## a page to type a prompt and watch, steer, go back, by RUN or by the student that ships; ARGS='--port 8000'
	$(ADASTATE) live $(SOURCE) $(if $(SP),--sequence-parallel $(SP)) $(ARGS)

evaluate: install ## measure rollouts of RUN at 1x and 6x
	$(ADASTATE) evaluate --run "$(RUN)" $(ARGS)

parity: install ## replay the fixtures in FIXTURES and compare them with what the references recorded
	$(ADASTATE) parity "$(FIXTURES)"

compare: install ## the student of RUN under every compared system, side by side -> RUN/compare/compare.html
	$(ADASTATE) compare --run "$(RUN)" $(ARGS)

study: install ## BUDGET=smoke, teacher, short (three hours), ratios, systems, errors, explore: does the state do what it claims? WORLD=mist or circuit (docs/guide/study.md)
	$(ADASTATE) study --budget $(BUDGET) --world $(or $(WORLD),mist) $(if $(JOBS),--jobs $(JOBS)) $(ARGS)

study-report: install ## the report anew, from the runs of BUDGET that there are
	$(ADASTATE) study report --budget $(BUDGET) --world $(or $(WORLD),mist) $(ARGS)

faults: install ## kills, stops, damage, full disks, bad data: every fault many times, and a table; ARGS="--share 0.1"
	.venv/bin/python benchmarks/faults.py $(ARGS)

mutate: install ## plants 300 small faults in the heart, one at a time, and counts those at which no test fails; ARGS="--number 50 --file adastate/stream/cache.py"
	OMP_NUM_THREADS=1 .venv/bin/python benchmarks/mutate.py $(ARGS)

bench-stages: install ## what every stage of the tiny size does for the next one, as a table, from a finished RUN
	.venv/bin/python benchmarks/stage_table.py --base "$(RUN)" $(ARGS)

results: install ## the cheap numbers of the README and the documents anew, each beside what is written there, in minutes; ARGS="--only parity"
	.venv/bin/python benchmarks/remake_results.py $(ARGS)

bench: install ## streams and training steps of this machine against a plain path, table and JSON
	.venv/bin/python benchmarks/bench.py $(ARGS)

gpu-check: install ## what the GPU of this machine does, in five minutes: kernels, streams and a training step at 1.3B, each proven and measured; benchmarks/gpu.sh with another python
	.venv/bin/python benchmarks/gpu_check.py $(ARGS)

tensorboard: install ## all runs, with every image kept
	.venv/bin/tensorboard --logdir runs --port $(PORT) --samples_per_plugin images=100,scalars=10000 --reload_multifile true

docs: install ## the documents as a site in site/, with the Python interface; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict $(ARGS)

slurm-lab: ## a real SLURM of one node on this machine, for testing; installs slurm-wlm and munge with apt-get
	@.ci/slurm-lab start

slurm-lab-stop: ## end it and remove its folder
	@.ci/slurm-lab stop

clean: ## remove .venv, caches and the site; runs and data stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache site
