#!/bin/bash
# One job for every training target (docs/guide/slurm.md). `conf/slurm.sh submit COMMAND ...` hands `adastate COMMAND ...` to
# SLURM, as `make train SLURM=1 NODES=2 GPUS=8` does; in the job, this same file runs it.
#   NODES, GPUS a node, TASKS a node (as many as GPUs), CPUS a task, TIME, PARTITION, ACCOUNT, RUN folder,
#   SBATCH: further options of sbatch, such as "--mem=0 --constraint=h100"
# For a stage on GPUs `adastate plan --job` tells the memory of a machine, how long before its end the job is signalled, and
# after which silence it counts as hung; what SBATCH and the command line say goes before that.
#SBATCH --job-name=adastate
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@120
set -euo pipefail

refuse() {
  echo "conf/slurm.sh: $1" >&2
  exit 2
}

if [[ ${1:-} == submit ]]; then
  for name in NODES GPUS TASKS CPUS; do
    [[ ${!name:-1} =~ ^[0-9]+$ ]] || refuse "$name=${!name} is no whole number: give one, $name=2 say"
  done
  [[ ${NODES:-1} != 0 ]] || refuse "NODES=0: give at least 1"
  [[ ${TIME:-1} =~ ^([0-9]+-)?[0-9]+(:[0-9]{1,2}){0,2}$ ]] || refuse "TIME=$TIME: write hours, minutes and seconds, TIME=24:00:00"
fi
GPUS=${GPUS:-0}
TASKS=${TASKS:-$((GPUS > 0 ? GPUS : 1))}
export ADASTATE_SLURM_LOGS=${ADASTATE_SLURM_LOGS:-${RUN:-runs/tiny}/slurm}

if [[ ${1:-} == submit ]]; then
  shift
  command -v sbatch > /dev/null ||
    refuse "SLURM is not installed here (there is no sbatch): call it on a login node, leave out SLURM=1, or \`make slurm-lab\`"
  mkdir -p "$ADASTATE_SLURM_LOGS"
  options=(--nodes="${NODES:-1}" --ntasks-per-node="$TASKS" --cpus-per-task="${CPUS:-$((GPUS > 0 ? 8 : 1))}"
    --output="$ADASTATE_SLURM_LOGS/%j.log")
  ((GPUS == 0)) || options+=(--gres="gpu:$GPUS")
  [[ -z ${TIME:-} ]] || options+=(--time="$TIME")
  [[ -z ${PARTITION:-} ]] || options+=(--partition="$PARTITION")
  [[ -z ${ACCOUNT:-} ]] || options+=(--account="$ACCOUNT")
  command=("$@")
  if [[ ${1:-} == fit ]] && ((GPUS > 0)); then
    if told=$("${ADASTATE_PYTHON:-.venv/bin/python}" -m adastate plan "${@:2}" --gpus "$GPUS" --nodes "${NODES:-1}" --job); then
      read -ra asked <<< "${told%%$'\n'*}"
      options+=("${asked[@]}")
      command=(fit "${told##*$'\n'}" "${@:2}")
    else
      echo "not planned (see above): the job is signalled 120 s before its end, and asks for the partition's usual memory" >&2
    fi
  fi
  # shellcheck disable=SC2086
  job=$(sbatch --parsable "${options[@]}" ${SBATCH:-} "conf/slurm.sh" "${command[@]}")
  job=${job%%;*}
  echo "submitted job $job; watch it with"
  echo "  squeue -j $job"
  printf "  tail -F %q\n" "$ADASTATE_SLURM_LOGS/$job.log"
  exit
fi

# The batch shell gets none of the signals that its tasks get before the end of the walltime.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
exec "${ADASTATE_PYTHON:-.venv/bin/python}" -m adastate.launch.slurm_job "$@"
