#!/usr/bin/env bash
# Trains a model of the zoo on a rented GPU, in one go and within a time:
#
#   zoo/train_gpu.sh MINUTES DATA OUT [MODEL]          MODEL is nlsn_x4 by default
#
# checks the machine, runs the GPU tests, measures steps per second, trains from the best weights so far, packs float16
# shards, measures those, and leaves OUT/zoo/MODEL ready to be copied to zoo/MODEL. MINUTES are for all of it. Started
# again with the same OUT it goes on where it was, and what is finished is not done again. To outlive a terminal:
#
#   setsid nohup zoo/train_gpu.sh 20 data out > out.txt 2>&1 &
#
# DATA holds what the recipe names (train, val/kodak) and eval/Set5, eval/Set14. Settings, as environment variables:
#
#   RECIPE          the recipe, by default zoo/MODEL/recipe.yaml
#   INIT            weights to start from, a folder or a file; `none` for random ones; by default the zoo's best
#   TRAIN_ARGS      more words for `sparse-attn train`, as "--set stages.full.batch=32"
#   TESTS           words for pytest, by default "-m gpu tests"; SKIP_TESTS=1 leaves the tests out
#   COMPILE         ways to compile that are measured, by default false,true
#   BATCHES         batches that are measured, by default the recipe's, its half and its double
#   TEST_MINUTES, STEPS_MINUTES, FINISH_MINUTES
#                   for the tests (at most; 3), for measuring steps (1), kept for the end (2); if MINUTES are few, at
#                   most 15, 5 and 10 % of them
#   DEVICE          cpu, cuda, cuda:1; by default CUDA where there is some
#   PYTHON          by default .venv/bin/python of the checkout, or python3
#
# Ends with 0 if all went well, 1 if the training failed, 2 if the machine or the input cannot be used, 3 if there are
# weights but something else failed, which the summary names.
set -euo pipefail
trap '' PIPE

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() { # PROBLEM EXPECTED GOT REMEDY
  printf 'error: %s, expected %s, got %s; %s\n' "$@" >&2
  exit 2
}

absolute() {
  case $1 in /*) printf '%s' "$1" ;; *) printf '%s/%s' "$PWD" "$1" ;; esac
}

# Arithmetic with fractions: calc 'a * b' a=1.5 b=2
calc() {
  local expression=$1 words=() word
  shift
  for word in "$@"; do words+=(-v "$word"); done
  LC_ALL=C awk "${words[@]}" "function min(x, y) { return x < y ? x : y } BEGIN { printf \"%.3f\", ($expression) }"
}

(($# == 3 || $# == 4)) || fail "wrong arguments" "MINUTES DATA OUT [MODEL]" "$#" "as in zoo/train_gpu.sh 20 data out"
[[ $1 =~ ^([0-9]+\.?[0-9]*|\.[0-9]+)$ && $1 =~ [1-9] ]] ||
  fail "bad MINUTES" "a positive number" "'$1'" "as in zoo/train_gpu.sh 20 data out"
MINUTES=$1
[[ -d $2 ]] || fail "no data folder" "a folder with train, val and eval" "'$2'" "see docs/training.md"
DATA=$(cd "$2" && pwd)
OUT=$(absolute "$3")
MODEL=${4:-nlsn_x4}
RECIPE=$(absolute "${RECIPE:-$ROOT/zoo/$MODEL/recipe.yaml}")
[[ -f $RECIPE ]] || fail "no recipe of $MODEL" "a file" "'$RECIPE'" "set RECIPE, or name a model of zoo/"
INIT=${INIT:-}
[[ -z $INIT || $INIT == none ]] || INIT=$(absolute "$INIT")
PYTHON=${PYTHON:-$([[ -x $ROOT/.venv/bin/python ]] && echo "$ROOT/.venv/bin/python" || echo python3)}
command -v "$PYTHON" >/dev/null || fail "no Python" "a program" "'$PYTHON'" "make test sets up .venv, or set PYTHON"
{ mkdir -p "$OUT/logs" "$OUT/state" && : >>"$OUT/log.txt"; } 2>/dev/null ||
  fail "cannot write to OUT" "a folder that can be written" "'$OUT'" "name another"

LOGS=$OUT/logs STATE=$OUT/state MADE=$OUT/zoo/$MODEL
DEVICE_WORDS=()
[[ -z ${DEVICE:-} ]] || DEVICE_WORDS=(--device "$DEVICE")
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
# A path below the checkout is said without it: the commands end up in the model card.
cd "$ROOT"
RECIPE=${RECIPE#"$ROOT"/}

# Children inherit the lock: while a training that outlived its script runs on, there is no second one.
exec 9>"$STATE/lock"
if command -v flock >/dev/null; then
  flock -w 2 9 || fail "OUT is in use" "no other run there" "one that goes on" "wait for it, or end it first"
fi

what="$MODEL by $RECIPE"
[[ ! -f $STATE/what || $(<"$STATE/what") == "$what" ]] ||
  fail "OUT is of another run" "$what" "$(<"$STATE/what")" "name another folder"
printf '%s' "$what" >"$STATE/what"

say() {
  local line
  line="$(date -u +%H:%M:%S)  $*"
  printf '%s\n' "$line" >>"$OUT/log.txt"
  printf '%s\n' "$line" 2>/dev/null || true
}

child='' watcher=''
stop() {
  [[ -z $watcher ]] || kill "$watcher" 2>/dev/null || true
  if [[ -n $child ]]; then
    kill -TERM "$child" 2>/dev/null || true
    wait "$child" || true
  fi
  say "stopped: the same command goes on from here"
  exit 143
}
# Under nohup, HUP stays ignored all the same.
trap stop TERM INT HUP

run() { # NAME SECONDS COMMAND...: into logs/NAME.log, ended after SECONDS; the command's status
  local name=$1 limit=$2 status=0
  shift 2
  printf '\n$ %s\n' "$*" >>"$LOGS/$name.log"
  # In the foreground: in a process group of its own, timeout's command would survive the script's group.
  timeout --foreground --kill-after=10 "$limit" "$@" >>"$LOGS/$name.log" 2>&1 &
  child=$!
  wait "$child" || status=$?
  child=''
  return "$status"
}

last_line() { # NAME: of what the last command wrote
  local text
  text=$(grep -v '^$' "$LOGS/$1.log" 2>/dev/null | tail -n 1)
  case $text in '$ '*) echo "it said nothing" ;; *) echo "$text" ;; esac
}

problems=()
problem() {
  problems+=("$*")
  say "$*"
}

# What is not worth doing twice, even if it failed: a later start says again what the problem was.
finish() { # NAME [PROBLEM]
  printf '%s' "${2:-}" >"$STATE/$1.done"
  [[ -z ${2:-} ]] || problem "$2"
}
finished() { # NAME
  [[ -f $STATE/$1.done ]] || return 1
  [[ ! -s $STATE/$1.done ]] || problem "$(<"$STATE/$1.done")"
}

FOREVER=0
seconds_for() { # SETTING DEFAULT SHARE: seconds
  calc 'set != "" ? 60 * set : 60 * min(most, share * minutes)' "set=$1" "most=$2" "share=$3" "minutes=$MINUTES"
}
TEST_SECONDS=$(seconds_for "${TEST_MINUTES:-}" 3 0.15)
STEPS_SECONDS=$(seconds_for "${STEPS_MINUTES:-}" 1 0.05)
FINISH_SECONDS=$(seconds_for "${FINISH_MINUTES:-}" 2 0.10)

# 1. The machine. What it starts from is decided once, as a run that goes on must not start from something else.
say "machine: $(uname -sm), $MODEL for $MINUTES minutes"
words=("$RECIPE" --data "$DATA" --out "$OUT" "${DEVICE_WORDS[@]}")
[[ -z $INIT ]] || words+=(--init "$INIT")
[[ -f $STATE/start ]] || words+=(--settings "$STATE/start")
: >"$LOGS/machine.log"
if ! run machine "$FOREVER" "$PYTHON" benchmarks/preflight.py "${words[@]}"; then
  grep '^error' "$LOGS/machine.log" >&2 || tail -n 5 "$LOGS/machine.log" >&2
  exit 2
fi
while IFS= read -r line; do say "  $line"; done < <(sed -e '/^$/d' -e '/^\$ /d' "$LOGS/machine.log")

# 2. The GPU tests.
if [[ -n ${SKIP_TESTS:-} ]]; then
  say "tests: left out, as asked"
elif ! finished tests; then
  read -ra tests <<<"${TESTS:--m gpu tests}"
  status=0
  run tests "$TEST_SECONDS" "$PYTHON" -m pytest -p no:cacheprovider "${tests[@]}" || status=$?
  if ((status == 0)); then
    say "tests: $(last_line tests)"
    finish tests
  elif ((status == 124 || status == 137)); then
    finish tests "tests: not done within $TEST_SECONDS s, see $LOGS/tests.log"
  else
    finish tests "tests: failed ($(last_line tests)), see $LOGS/tests.log"
  fi
fi

# 3. Steps per second. The way to compile is taken over; the batch is the recipe's, as the learning rate belongs to it.
if ! finished steps; then
  words=("$RECIPE" --seconds "$STEPS_SECONDS" --each "$(calc 's / 10' "s=$STEPS_SECONDS")" "${DEVICE_WORDS[@]}")
  words+=(--compile "${COMPILE:-false,true}" --json "$OUT/throughput.json" --settings "$STATE/speed")
  [[ -z ${BATCHES:-} ]] || words+=(--batches "$BATCHES")
  : >"$STATE/speed"
  # Compiling may take longer than the time in which cases are begun; what is known by then is used.
  if run steps "$(calc '2 * s + 60' "s=$STEPS_SECONDS")" "$PYTHON" -m sparse_attn.cli throughput "${words[@]}"; then
    say "steps: $(last_line steps)"
    finish steps
  else
    finish steps "steps: not all could be measured ($(last_line steps)), see $LOGS/steps.log"
  fi
fi

# 4. Training, in what the rest leaves.
if [[ ! -f $STATE/trained ]]; then
  if [[ ! -f $STATE/seconds ]]; then
    seconds=$(calc '60 * m - used - kept' "m=$MINUTES" "used=$SECONDS" "kept=$FINISH_SECONDS")
    least=$(calc '6 * m' "m=$MINUTES")
    if [[ $(calc 's < l' "s=$seconds" "l=$least") != 0.000 ]]; then
      problem "training: only $seconds s of $MINUTES minutes are left, it gets $least s and the run takes longer"
      seconds=$least
    fi
    printf '%s\n' "$seconds" >"$STATE/seconds.part"
    mv "$STATE/seconds.part" "$STATE/seconds"
  fi
  # What a run that goes on has trained already; a log of a run that has just begun has no such number.
  trained=$(grep -o '"seconds": [0-9.]*' "$OUT/run/log.jsonl" 2>/dev/null | tail -n 1 | grep -o '[0-9.]*$' || echo 0)
  left=$(calc 's > d + 3 ? (s - d) / 60 : 0.05' "s=$(<"$STATE/seconds")" "d=$trained")
  mapfile -t words < <(cat "$STATE/start" "$STATE/speed")
  read -ra more <<<"${TRAIN_ARGS:-}"
  say "training: $left minutes, ${words[*]:-the recipe as it is} ${more[*]}"
  if command -v nvidia-smi >/dev/null; then
    # Reads the board's power, and ends with this script.
    "$PYTHON" -m sparse_attn.training.energy "$OUT/power.jsonl" "$$" 9>&- >>"$LOGS/power.log" 2>&1 &
    watcher=$!
  fi
  status=0
  run train "$FOREVER" "$PYTHON" -m sparse_attn.cli train "$RECIPE" --data "$DATA" --out "$OUT/run" \
    --max-minutes "$left" "${DEVICE_WORDS[@]}" "${words[@]}" "${more[@]}" || status=$?
  [[ -z $watcher ]] || kill "$watcher" 2>/dev/null || true
  watcher=''
  if ((status != 0)); then
    say "training: failed with $status: $(last_line train)"
    say "see $LOGS/train.log; the same command goes on from the last checkpoint"
    exit 1
  fi
  say "training: $(last_line train)"
  : >"$STATE/trained"
fi

# 5. Curves, shards and figures. Those of the shards, not of the float32 weights they were made from.
mkdir -p "$MADE"
if [[ ! -f $STATE/plotted ]]; then
  if run plot "$FOREVER" "$PYTHON" -m sparse_attn.cli plot "$OUT/run" -o "$MADE/curves.svg" --overwrite; then
    : >"$STATE/plotted"
  else
    problem "curves: not drawn ($(last_line plot)), see $LOGS/plot.log"
  fi
fi
if [[ ! -f $STATE/measured ]]; then
  words=("$MODEL" --run "$OUT/run" --zoo "$OUT/zoo" --data "$DATA" --recipe "$RECIPE" --power "$OUT/power.jsonl")
  if run measure "$FOREVER" "$PYTHON" benchmarks/zoo.py "${words[@]}" "${DEVICE_WORDS[@]}"; then
    : >"$STATE/measured"
  else
    problem "measuring: failed ($(last_line measure)), see $LOGS/measure.log"
  fi
fi

# 6. What came of it.
cp "$OUT/throughput.json" "$MADE/throughput.json" 2>/dev/null || true
grep '^|' "$LOGS/measure.log" 2>/dev/null | tail -n 4 | while IFS= read -r line; do say "$line"; done || true
say "used $(calc 's / 60' "s=$SECONDS") of $MINUTES minutes since this start"
say "weights, recipe, log, records and model card: $MADE; cp -r $MADE zoo/ puts them into the zoo"
if ((${#problems[@]})); then
  say "${#problems[@]} problem(s):"
  for text in "${problems[@]}"; do say "  $text"; done
  exit 3
fi
say "all went well"
