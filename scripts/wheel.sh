#!/usr/bin/env bash
# Builds a wheel into build/wheel, puts the libraries it needs beside Linux's own into it (auditwheel), and tests it in a
# clean environment of its own, with NumPy and nothing else.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=$(realpath -s "${AEROGEL_PYTHON:-.venv/bin/python}")  # auditwheel looks for patchelf from elsewhere
folder=build/wheel
rm -rf "$folder"
mkdir -p "$folder"
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$folder/plain" .
PATH="$(dirname "$python"):$PATH" "$python" -m auditwheel repair --wheel-dir "$folder" "$folder"/plain/aerogel-*.whl
wheel=$(ls "$folder"/aerogel-*.whl)
"$python" scripts/check_wheel.py "$wheel"
"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$wheel"
root=$PWD
(cd /tmp && env -u PYTHONPATH "$root/$folder/venv/bin/python" "$root/scripts/smoke_test.py")
printf 'wheel: %s\n' "$wheel"
