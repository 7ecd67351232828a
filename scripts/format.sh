#!/usr/bin/env bash
# Formats the C++ sources in place; with --check it only reports what differs and fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mode=(-i)
[ "${1:-}" = "--check" ] && mode=(--dry-run -Werror)
formatter=$(command -v clang-format-14 || command -v clang-format) || {
    echo "format: clang-format-14 is missing: run make setup" >&2
    exit 1
}
folders=()
for folder in include src tests bench examples fuzz python; do
    [ -d "$folder" ] && folders+=("$folder")
done
find "${folders[@]}" \( -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \) -print0 |
    xargs -0 -r -P "$(nproc)" -n 16 "$formatter" "${mode[@]}"
