#!/usr/bin/env bash
# A search on SLURM: edit, then `sbatch cluster/slurm.sh`. docs/cluster.md says what happens when.
#SBATCH --job-name=kd_tune
#SBATCH --nodes=2
#SBATCH --time=24:00:00
##SBATCH --gpus-per-node=8
##SBATCH --partition=NAME
# Whole nodes: `ray symmetric-run` refuses a node that has a Ray, and its `ray stop` ends every Ray of yours there.
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --ntasks-per-node=1
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --output=kd_tune-%j.log
set -euo pipefail
umask 077
began=$(date +%s.%N)
readonly began # so that an earlier pause is not taken for this one

# Edit these. All nodes see `project` (this checkout, with .venv) and `shared` (runs, caches) under the same names.
project=$HOME/kd_tune
shared=$HOME/kd_tune_shared
file=search_spaces/cifar10.yaml
name=cifar10
options=() # of run_search.py, such as (--data /shared/data); a run that is there goes on as it was begun
# With --gpus-per-node, or they stand idle: options=(--set resources.gpus_per_trial=1)
most_restarts=100

readonly resumable=75 environment=5
readonly run=$shared/runs/$name job=$shared/jobs/$SLURM_JOB_ID
# Sixteen ports a job, below those that Linux gives out by itself: what another job left on a node is not in the way.
readonly port=$((20000 + SLURM_JOB_ID % 750 * 16))

# The search alone is told. Ray must live until it has saved, so neither srun nor the whole step gets the signal.
# shellcheck disable=SC2329 # called by the trap
stop() {
    echo "the time limit is near: the search is told to save and to stop"
    if [[ -s $job/process ]]; then
        kill -TERM "$(<"$job/process")" || echo "it has just ended"
    fi
}

cd "$project"
export PATH=$project/.venv/bin:$PATH
export KD_TUNE_CACHE=$shared/cache
# Not /tmp/ray, which may belong to whoever was on the node before. Short: a socket's path has at most 107 characters.
export RAY_TMPDIR=/tmp/ray_$SLURM_JOB_ID
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300
export RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$job/token

mkdir -p "$job" "$KD_TUNE_CACHE"
trap 'rm -rf -- "$job"' EXIT
# A requeued job keeps its id: a start that was killed left these.
rm -f -- "$job/token" "$job/process" "$job/exit_code"
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$job/token"

# This script runs on the first of them, and so does the search.
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
readonly address=${nodes%%$'\n'*}:$port

# Leaves the search's process and exit code to this script: srun's code is the worst of all nodes', and symmetric-run's
# is 0 when `ray start` failed.
# shellcheck disable=SC2016 # for the shell on the head node
on_head='code=0; (echo "$BASHPID" >"$0/process" && exec "$@") || code=$?; echo "$code" >"$0/exit_code"; exit "$code"'

trap stop TERM
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpu-bind=none --no-kill --kill-on-bad-exit=0 \
    ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --node-manager-port=$((port + 1)) --object-manager-port=$((port + 2)) \
    --runtime-env-agent-port=$((port + 3)) --ray-client-server-port=$((port + 4)) \
    --dashboard-agent-grpc-port=$((port + 5)) --dashboard-agent-listen-port=$((port + 6)) \
    --metrics-export-port=$((port + 7)) --dashboard-host=127.0.0.1 --dashboard-port=$((port + 8)) \
    --min-worker-port=0 --max-worker-port=0 \
    -- bash -c "$on_head" "$job" \
    python run_search.py "$file" --runs "$shared/runs" --name "$name" --or-resume --address "$address" \
    ${options[@]+"${options[@]}"} & # an empty array is unset to bash before 4.4
readonly step=$!
# A signal ends `wait` early.
until wait "$step" || ! kill -0 "$step" 2>/dev/null; do :; done

if [[ ! -s $job/exit_code ]]; then
    echo "error: the search was not run to an end: Ray did not start, or its first node was lost; see above" >&2
    exit "$environment"
fi
code=$(<"$job/exit_code")
if ((code == 0)); then
    python cluster/ended.py "$run"
elif ((code == resumable)) && limit=$(python cluster/at_limit.py "$run" "$began"); then
    echo "stopped by $limit, so the job is not requeued; go on with: sbatch cluster/slurm.sh" >&2
    echo "(--max-device-hours counts all launches of a run: allow more in options first)" >&2
elif ((code == resumable && ${SLURM_RESTART_COUNT:-0} >= most_restarts)); then
    echo "error: stopped, and restarted $most_restarts times already; see why above, then: sbatch cluster/slurm.sh" >&2
elif ((code == resumable)); then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
