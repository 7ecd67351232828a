#!/usr/bin/env bash
# Coverage-guided fuzzing of every reader of files (libFuzzer, with the address and undefined-behaviour sanitizers).
#   scripts/fuzz.sh [SECONDS] [NAME...]   SECONDS for each target (default 20); NAME: only these targets
# Inputs found on the way are kept in build/fuzz/corpus for the next run; those that break a target are copied to
# build/fuzz/found, and the exit code is 1. What was found and fixed belongs in fuzz/corpus, which every test run reads.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds=${1:-20}
shift || true
[[ $seconds =~ ^[0-9]+$ ]] || { printf 'usage: scripts/fuzz.sh [SECONDS] [NAME...]\n' >&2; exit 1; }

cmake --preset fuzz >/dev/null
cmake --build build/fuzz -j "${JOBS:-$(nproc)}"

names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    for source in fuzz/*_fuzz.cpp; do
        name=${source##*/}
        names+=("${name%_fuzz.cpp}")
    done
fi
mkdir -p build/fuzz/found

fuzz_one() {
    local name=$1 seconds=$2 corpus=build/fuzz/corpus/$1 log=build/fuzz/$1.log
    mkdir -p "$corpus"
    if "build/fuzz/fuzz/${name}_fuzz" -max_total_time="$seconds" -max_len=65536 -timeout=10 -rss_limit_mb=2048 \
        -print_final_stats=1 -artifact_prefix="build/fuzz/found/$name-" "$corpus" "fuzz/corpus/$name" >"$log" 2>&1; then
        printf '%-20s %12s inputs, nothing found\n' "$name" "$(awk '/number_of_executed_units/ {print $2}' "$log")"
    else
        printf '%-20s FAILED, see %s\n' "$name" "$log"
        return 1
    fi
}
export -f fuzz_one

printf 'fuzz: %d targets, %d seconds each\n' ${#names[@]} "$seconds"
printf '%s\n' "${names[@]}" | xargs -P "${JOBS:-$(nproc)}" -I{} bash -c "fuzz_one {} $seconds"
