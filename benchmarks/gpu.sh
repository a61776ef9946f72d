#!/usr/bin/env bash
# First check on a GPU, in at most eight minutes: `make gpu-check`, then, in the time that is left, training steps
# of the flight world's teacher. Every phase writes JSON to OUT, whatever happens to the next.
#
#   benchmarks/gpu.sh                      OUT=runs/gpu-check SECONDS_ALL=480 PYTHON=.venv/bin/python
#
# PYTHON is .venv's if it exists, else a python3 with torch. WHEELS=folder: installs packages from there, on a machine
# without a network. Nothing is installed into PYTHON's own environment.
set -u
cd "$(dirname "$0")/.."
began=$(date +%s)
all=${SECONDS_ALL:-480}
out=${OUT:-runs/gpu-check}
if [ -z "${PYTHON:-}" ]; then
    if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python3; fi
fi
mkdir -p "$out"
left() { echo $((all - ($(date +%s) - began))); }
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

# packages in addition to PYTHON's own: those of WHEELS, and flash-attn if there is a wheel for this torch
site=$out/site
if [ -n "${WHEELS:-}" ]; then
    timeout 60 "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl ||
        echo "the wheels in $WHEELS could not be installed"
fi
if [ -n "${FLASH_ATTN:-}" ] && ! "$PYTHON" -c 'import flash_attn' 2>"$out/flash.log"; then
    timeout 45 "$PYTHON" -m pip install -q --only-binary :all: --no-deps --target "$site" "$FLASH_ATTN" >"$out/flash.log" 2>&1 ||
        echo "no wheel of $FLASH_ATTN: $(tail -n 1 "$out/flash.log")"
fi
if [ -d "$site" ]; then export PYTHONPATH="$PYTHONPATH:$PWD/$site"; fi

budget=$(($(left) < 300 ? $(left) : 300))
timeout --kill-after=5 $((budget + 15)) "$PYTHON" benchmarks/gpu_check.py --out "$out" --budget "$budget" ${ARGS:-}
code=$?

# the flight world's teacher: its clips are rendered during training if there are no shards
rest=$(($(left) - 10))
teacher() {
    if [ "$rest" -lt "${TEACHER_LEAST:-60}" ]; then
        echo "{\"phase\": \"teacher\", \"status\": \"no time\", \"seconds\": $rest}"
        return
    fi
    config=(--config conf/base.yaml --config conf/sizes/flight.yaml --config conf/stages/teacher.yaml)
    if [ -d runs/flight/shards ]; then config+=(--config conf/recipes/teacher_latents.yaml); fi
    longest=$((rest > 45 ? rest - 25 : rest))
    timeout --kill-after=5 "$rest" "$PYTHON" -m adastate fit "${config[@]}" --run.dir="$out/flight" --preview.every=0 \
        --trainer.max_time="$(printf '00:00:%02d:%02d' $((longest / 60)) $((longest % 60)))" --overwrite \
        ${TEACHER_ARGS:-} >"$out/teacher.log" 2>&1
    ended=$?
    "$PYTHON" - "$out" "$ended" "$rest" <<'PY'
import json, pathlib, sys

out, ended, seconds = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
log = (out / "teacher.log").read_text(errors="replace").splitlines()
saved = sorted(p.name for p in (out / "flight/teacher/checkpoints").glob("[0-9]*")) if (out / "flight").is_dir() else []
status = "done" if ended in (0, 124) and saved else "failed"
print(json.dumps({"phase": "teacher", "status": status, "code": ended, "seconds": seconds, "saved": saved, "tail": log[-12:]}))
PY
}
teacher >"$out/teacher.part" && mv "$out/teacher.part" "$out/teacher.json"
"$PYTHON" - "$out/teacher.json" <<'PY' || code=1
import json, sys

found = json.load(open(sys.argv[1]))
print("teacher:", found["status"], *found.get("saved", []))
sys.exit(found["status"] == "failed")
PY
exit $code
