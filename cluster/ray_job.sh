#!/usr/bin/env bash
# A try of a RayJob: `ray_job.sh RUN COMMAND...`. KubeRay tries again, on a new cluster, after every exit code but 0. So
# an end that another try would not change leaves with 0, and the log's last line says which one it was.
set -euo pipefail
began=$(date +%s.%N)
run=$1 scripts=${BASH_SOURCE[0]%/*}
shift
readonly began run scripts usage=2 nothing_usable=3 partial=4 resumable=75

code=0
"$@" || code=$?

end=""
case $code in
    0) end="done" ;;
    "$usage") end="usage or configuration, see the error above" ;;
    "$nothing_usable") end="it ended, but no trial gave a usable figure" ;;
    "$partial") end="it ended, and errors ended some of its trials" ;;
    "$resumable")
        if limit=$(python "$scripts/at_limit.py" "$run" "$began"); then
            end="stopped by $limit; it goes on when the job is deleted and applied again"
        fi
        ;;
    *) ;;
esac
if [[ -z $end ]]; then
    echo "exit code $code: tried again, unless backoffLimit is reached"
    exit "$code"
fi
echo "exit code $code, not tried again: $end"
