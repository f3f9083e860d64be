#!/usr/bin/env bash
# Check everything that needs a GPU, within nine minutes: build, CUDA tests, compute-sanitizer,
# benchmarks and a summary. All steps run even if one fails; the exit status is 1 if any failed.
#
#     bash benchmarks/gpu/gpu_check.sh OUTDIR
set -uo pipefail

if [ $# -ne 1 ] || [ "$1" = --help ] || [ "$1" = -h ]; then
  sed -n '2,5s/^# \{0,1\}//p' "$0"
  [ $# -eq 1 ] && exit 0 || exit 2
fi
mkdir -p "$1/results" || exit 2
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.." || exit 2
python=${PYTHON:-python3}
budget=520 # seconds in all

if ! "$python" -c '
import sys, torch
if not torch.cuda.is_available():
    sys.exit(f"gpu_check: no GPU: PyTorch {torch.__version__} (CUDA {torch.version.cuda}) does not find one")
print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}")
'; then
  exit 3
fi

export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
report="$temporary/report"
failed=0

# limited SECONDS COMMAND...: run within this time and within the rest of the budget.
limited() {
  local seconds=$1 left=$((budget - SECONDS))
  shift
  [ "$left" -lt "$seconds" ] && seconds=$left
  [ "$seconds" -lt 5 ] && echo "gpu_check: no time left" && return 124
  timeout -k 10 "$seconds" "$@"
}

# record STEP STATUS START NOTE: add one line to the summary.
record() {
  local word=ok
  [ "$2" -eq 124 ] || [ "$2" -eq 137 ] && word="OUT OF TIME"
  [ "$word" = ok ] && [ "$2" -ne 0 ] && word="FAILED ($2)"
  [ "$2" -ne 0 ] && failed=1
  printf '%-12s %-12s %4ds  %s\n' "$1" "$word" $((SECONDS - $3)) "$4" | tee -a "$report"
}

start=$SECONDS
missing=$("$python" - <<'PYTHON'
import importlib.util
names = {"pycocotools": "pycocotools", "tyro": "tyro", "safetensors": "safetensors", "PIL": "pillow",
         "matplotlib": "matplotlib", "pytest": "pytest", "ninja": "ninja"}
print(*(package for name, package in names.items() if importlib.util.find_spec(name) is None))
PYTHON
)
if [ -n "$missing" ]; then
  record packages 1 "$start" "missing: $missing; steps that need them will fail"
else
  record packages 0 "$start" "complete"
fi

# Line numbers for compute-sanitizer; the code is the same.
export FORCE_CUDA=1 MAX_JOBS="${MAX_JOBS:-$(nproc)}" NVCC_APPEND_FLAGS="${NVCC_APPEND_FLAGS:-} -lineinfo"
start=$SECONDS
if "$python" -c 'from mrcnn.ops import library; library.load("mrcnn_CUDA")' >"$out/build.log" 2>&1; then
  record build 0 "$start" "skipped: the kernels are built from these sources"
else
  build=(-m pip install --no-build-isolation --no-deps .)
  # Libraries in the repository would hide installed ones.
  compgen -G 'mrcnn_C*.so' >/dev/null && build=(setup.py build_ext --inplace)
  limited 240 "$python" "${build[@]}" >"$out/build.log" 2>&1
  record build $? "$start" "${build[*]}: $(tail -n 1 "$out/build.log" | cut -c 1-120)"
fi
limited 60 "$python" -m mrcnn.doctor >>"$out/build.log" 2>&1

# Run the sanitizers in parallel with the tests, and nothing in parallel with the benchmarks.
: >"$out/sanitizers.log"
tools="memcheck racecheck initcheck synccheck"
sanitizer=$(command -v compute-sanitizer || ls {"${CUDA_HOME:-/usr/local/cuda}",/usr/local/cuda*}/bin/compute-sanitizer 2>/dev/null | head -n 1)
declare -A process began
for tool in $tools; do
  [ -z "$sanitizer" ] && break
  calls=12
  [ $tool = racecheck ] && calls=6
  began[$tool]=$SECONDS
  # Without PyTorch's cache, each tensor is a separate allocation with its own bounds. Errors of CUDA
  # calls are not reported: PyTorch probes with calls that may fail, and the kernels check theirs.
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 limited 230 "$sanitizer" --tool $tool --error-exitcode 99 \
    --print-limit 20 --report-api-errors no "$python" -m tests.helpers.cuda_calls --calls $calls --large 1 \
    >"$temporary/$tool" 2>&1 &
  process[$tool]=$!
done

start=$SECONDS
limited 230 "$python" -m pytest -q -m cuda --continue-on-collection-errors -p no:cacheprovider \
  --durations=10 tests >"$out/pytest.log" 2>&1
record pytest $? "$start" "$(tail -n 1 "$out/pytest.log" | cut -c 1-150)"

if [ -z "$sanitizer" ]; then
  echo "sanitizers   skipped: compute-sanitizer is not installed" | tee -a "$report"
fi
for tool in $tools; do
  [ -z "$sanitizer" ] && break
  wait "${process[$tool]}"
  status=$?
  { echo "== $tool"; head -c 200000 "$temporary/$tool"; } >>"$out/sanitizers.log"
  record $tool $status "${began[$tool]}" "$(grep -aE 'SUMMARY' "$temporary/$tool" | tail -n 1 | cut -c 1-150)"
done

start=$SECONDS
limited 170 "$python" -m benchmarks.gpu.measure --out "$out/results/gpu.json" >"$out/bench.log" 2>"$temporary/errors"
record benchmarks $? "$start" "$(tail -n 1 "$temporary/errors" | cut -c 1-150)"

{
  echo "gpu_check, $SECONDS s"
  cat "$report"
  grep -aE '^(FAILED|ERROR) ' "$out/pytest.log" | cut -c 1-200 | head -n 20
  cat "$out/bench.log"
} >"$out/summary.txt"
cat "$temporary/errors" >>"$out/bench.log"
printf '\n'
cat "$out/summary.txt"
exit $failed
