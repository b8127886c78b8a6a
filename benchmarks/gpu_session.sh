#!/usr/bin/env bash
# What a GPU must show, each part by itself in ten minutes, on a machine without network:
#
#   benchmarks/gpu_session.sh correctness      tests/gpu: the engine beside float64 on the CPU
#   benchmarks/gpu_session.sh speed [COLUMN…]  benchmarks/gpu.py, columns one by one; again: the rest
#   benchmarks/gpu_session.sh profile          where two steps' time goes, by kernel
#   benchmarks/gpu_session.sh ray              real runs: a killed driver, a killed worker, no memory
#   benchmarks/gpu_session.sh two              two devices: DDP and FSDP2, compiled and not
#   benchmarks/gpu_session.sh all --device cpu --quick       do these lines work? In CI, on a CPU
#
# Packages that the machine lacks lie as wheels in .whl (or $WHEELS) and go to .site; without that
# folder the Python at hand has them: .venv's, or $PYTHON. Beside Torch, Transformers, Accelerate and
# PyArrow `correctness` needs pytest, pluggy, iniconfig, pydantic and its core; `ray` and `two` need
# what `manta train` does. Tables, logs and traces are kept in gpu-session (or $OUT).
set -uo pipefail
cd "$(dirname "$0")/.."
WHEELS=${WHEELS:-.whl} OUT=${OUT:-gpu-session} LIMIT=${LIMIT:-570}
if [ -z "${PYTHON:-}" ]; then PYTHON=python3; [ -x .venv/bin/python ] && PYTHON=.venv/bin/python; fi
part=${1:-} quick="" device=cuda columns=()
[ $# -gt 0 ] && shift
while [ $# -gt 0 ]; do
  case $1 in
    --device) device=$2; shift ;;
    --quick) quick=--quick ;;
    *) columns+=("$1") ;;
  esac
  shift
done

if [ -d "$WHEELS" ]; then
  "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --target .site "$WHEELS"/*.whl || exit 1
fi
export PYTHONPATH="$PWD/.site:$PWD/platform:$PWD/benchmarks"
if [ "$device" = cpu ]; then export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1; fi
mkdir -p "$OUT"
failed=()

# run NAME COMMAND…: its table, on the screen and kept; its errors, if it failed.
run() {
  local name=$1; shift
  if timeout "$LIMIT" "$@" > "$OUT/$name.md" 2> "$OUT/$name.log"; then cat "$OUT/$name.md"
  else failed+=("$name"); cat "$OUT/$name.md"; tail -n 20 "$OUT/$name.log" >&2; fi
}

correctness() {
  run correctness bash -c '"$0" -m pytest --noconftest -q -rf -p no:cacheprovider -m gpu tests/gpu \
    --junitxml="$1" >&2; failed=$?; "$0" benchmarks/gpu_tables.py tests "$1"; exit $failed' \
    "$PYTHON" "$OUT/correctness.xml"
}

speed() {
  local lens=(2048 8192) each=() began=$SECONDS
  [ -n "$quick" ] && lens=(64)
  [ ${#columns[@]} -eq 0 ] && [ -n "$quick" ] && columns=(snapshots)
  [ ${#columns[@]} -eq 0 ] && mapfile -t columns < <("$PYTHON" benchmarks/gpu_tables.py columns)
  for length in "${lens[@]}"; do
    for column in "${columns[@]}"; do
      local file=$OUT/speed-$length-${column// /-}.json
      [ -e "$file" ] && [ -z "$quick" ] && continue
      # A column takes some four minutes: one that would not end in time is left to the next call.
      [ $((SECONDS - began)) -gt $((LIMIT * 5 / 10)) ] && continue
      timeout $((LIMIT - SECONDS + began)) "$PYTHON" benchmarks/gpu.py --device "$device" $quick \
        --repeats 1 ${quick:+--steps 1 --eager} --seq-lens "$length" --columns "$column" --out "$file" \
        >> "$OUT/speed.log" 2>&1 || failed+=("speed $length $column")
    done
  done
  local files=("$OUT"/speed-*.json)
  [ -e "${files[0]}" ] && "$PYTHON" benchmarks/gpu_tables.py speed "${files[@]}" | tee "$OUT/speed.md"
}

profile() { run profile "$PYTHON" benchmarks/gpu_profile.py --out "$OUT" $quick; }
ray() { run ray "$PYTHON" benchmarks/gpu_ray.py ray --device "$device" $quick; }
two() { run two "$PYTHON" benchmarks/gpu_ray.py two --device "$device" $quick; }

case $part in
  correctness | speed | profile | ray | two) $part ;;
  all) for each in correctness speed profile ray two; do $each; done ;;
  *) sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
if [ ${#failed[@]} -gt 0 ]; then echo "failed: ${failed[*]}; see $OUT" >&2; exit 1; fi
