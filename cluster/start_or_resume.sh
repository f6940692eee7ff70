#!/usr/bin/env bash
# Starts a search, or goes on with it where there is one: `start_or_resume.sh FILE RUN [OPTION...]`.
# FILE is looked for from the project's folder; OPTIONs are those of run_search.py that --resume takes too.
set -euo pipefail
readonly file=$1 run=$2
shift 2

cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ -d $run/ledger ]]; then
    exec python run_search.py --resume "$run" "$@"
fi
exec python run_search.py "$file" --runs "$(dirname "$run")" --name "$(basename "$run")" "$@"
