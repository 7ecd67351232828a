#!/usr/bin/env bash
# Runs the suites under sanitizers: address and undefined behaviour, then threads.
#   scripts/sanitize.sh [asan|tsan]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

presets=("$@")
[ $# -gt 0 ] || presets=(asan tsan)
jobs=${JOBS:-$(nproc)}
for preset in "${presets[@]}"; do
    cmake --preset "$preset" >/dev/null
    cmake --build "build/$preset" -j "$jobs"
    ctest --preset "$preset" -j "$jobs"
done
