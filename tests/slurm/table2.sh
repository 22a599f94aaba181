#!/usr/bin/env bash
# Show that the Slurm profile computes what one machine computes, on a real Slurm of one node:
#   tests/slurm/with_slurm.sh tests/slurm/table2.sh > tests/slurm/output.txt
# 1. Table 2 of the smoke preset through Slurm. 2. A training that is told to stop and goes on in another job.
# 3. Both again without Slurm, and a comparison; the first difference ends the script with status 1.
# PYTHON names the interpreter of an environment with this suite and its extra `slurm`.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=$(realpath --no-symlinks "${PYTHON:-.venv/bin/python}")
folder=$(mktemp -d)
call=
trap '[ -z "$call" ] || kill -KILL "$call" 2> /dev/null; rm -rf "$folder"' EXIT
trap 'exit 143' TERM
mkdir "$folder"/{bin,slurm,local}
run=results/smoke/runs/mnist_hard_classification
stopped=$run/mist/seed1/weights.safetensors
longer='training={steps: 150, checkpoint_every: 5, validate_every: 150}'

# the profile's own settings but for the first two, which spare a test the waiting of a busy cluster;
# a Slurm without a database answers squeue only
through_slurm() {
  exec "$PYTHON" -m snakemake --directory "$folder/slurm" --workflow-profile slurm --latency-wait 5 \
    --slurm-init-seconds-before-status-checks 2 --slurm-status-command squeue "$@"
}
here() {
  exec "$PYTHON" -m snakemake --directory "$folder/local" --cores 2 "$@"
}
# in the background, so that a signal is heeded at once
start() {
  "$@" > "$folder/printed" 2>&1 &
  call=$!
}
finish() {
  wait "$call" || fail "$1"
  call=
}
# what tells the course of a call, without places
course() {
  grep -E "has been submitted|^Finished jobid|^Trying to restart|^Error in rule|steps? \(.*%\) done" "$1" |
    sed -E 's/ \(log: .*\)//' | uniq
}
fail() {
  echo "$1" >&2
  { tail -n 60 "$folder/printed"; find "$folder" -path "*slurm_logs*" -type f -exec tail -n 30 {} +; } |
    cut -c 1-300 >&2
  exit 1
}
queue() {
  squeue --states="$1" --sort=i "${@:2}" \
    --Format=JobID:6,State:11,TimeUsed:9,TimeLimit:12,NumCPUs:5,MinMemory:11,tres-per-job:13,NodeList:9,Comment:90 |
    sed 's/ *$//'
}

"$PYTHON" -c 'from importlib.metadata import version as v
print("snakemake", v("snakemake"), "with snakemake-executor-plugin-slurm", v("snakemake-executor-plugin-slurm"))'
sbatch --version
sinfo --noheader --format="%N: %c processors, %m MB, %G, %T"

# where nvidia-smi exists, the rules ask for a GPU for each job of a network; training on it falls back to the CPU
printf '#!/bin/sh\nexit 1\n' > "$folder/bin/nvidia-smi"
chmod +x "$folder/bin/nvidia-smi"
export PATH=$folder/bin:$PATH

echo
echo "== snakemake --workflow-profile slurm table2 --config preset=smoke"
start through_slurm table2 --config preset=smoke
finish "table2 failed"
course "$folder/printed"

echo
echo "== a training of 150 steps is told to stop (SIGTERM) while it runs"
start through_slurm "$stopped" --config preset=smoke "$longer"
until grep -qs "train step" "$folder/slurm/${stopped%/*}/train.log"; do
  kill -0 "$call" 2> /dev/null || fail "the training did not start"
  sleep .05
done
scancel --signal=TERM "$(squeue --states=running --noheader --format=%i)"
finish "the training did not go on after it was stopped"
course "$folder/printed"
grep -o "continuing after step.*" "$folder/slurm/${stopped%/*}/train.log"

echo
echo "== what Slurm knows about these jobs"
queue all

echo
echo "== the same without Slurm"
start here table2 --config preset=smoke
finish "table2 failed without Slurm"
start here "$stopped" --config preset=smoke "$longer"
finish "the training failed without Slurm"
check() {
  (cd "$folder" && cmp "slurm/$1" "local/$1") && echo "identical: $1"
}
check results/smoke/tables/table2.csv
for metrics in "$folder"/local/$run/*/seed0/metrics.json; do
  check "${metrics#"$folder/local/"}"
done
check "$stopped"

# every job ran under Slurm, those of networks with their GPU: as many as there are runs, and the stopped one twice
count() {
  queue "$1" --noheader | grep -cE "$2" || true
}
runs=$(find "$folder/local/$run" -name run.json | wc -l)
[ "$(count completed ':gpu:1 .* rule_train_')" = "$runs" ] && [ "$(count failed ':gpu:1 .* rule_train_')" = 1 ] &&
  [ "$(count completed ':gpu:1 .* rule_predict_')" = "$((runs - 1))" ] &&
  [ "$(count completed ' N/A .* rule_evaluate_')" = "$((runs - 1))" ] || fail "Slurm did not run every job"
echo "all $runs trainings ran under Slurm, one of them in two jobs"
