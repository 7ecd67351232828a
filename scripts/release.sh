#!/usr/bin/env bash
# Builds what is published, and tests it as a user would meet it.
#   scripts/release.sh          dist/: the source distribution, a wheel per kind of Python, SHA256SUMS
#   scripts/release.sh wheel    build/wheel/: the same with one wheel, of the Python in .venv, built from this tree
# Wheels of a release are built from the source distribution. The libraries that they need beside Linux's own are put
# into them (auditwheel). Each is installed into an empty environment with NumPy and nothing else, where the smoke test
# runs; that of .venv's Python runs an example with the PyTorch of .venv, too.
# One wheel is for Python 3.11, one for 3.12 and all later ones: AEROGEL_PYTHONS names the interpreters, by default those
# of .venv and, where that is 3.11, the first of python3.12, python3.13 ... that can make environments.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONPATH  # environments are to be empty
export CXX=${CXX:-c++}  # CMake's choice, not the name that Python was built with: ccache tells compilers apart by name
root=$PWD
own=$(realpath -s "${AEROGEL_PYTHON:-.venv/bin/python}")  # auditwheel looks for patchelf from elsewhere

say() { printf 'release: %s\n' "$*"; }
fail() { printf 'release: %s\n' "$*" >&2; exit 1; }

case ${1:-all} in
    all) folder=dist ;;
    wheel) folder=build/wheel ;;
    *)
        printf 'usage: scripts/release.sh [wheel]\n' >&2
        exit 1
        ;;
esac
work=build/release-work
rm -rf "$folder" "$work"
mkdir -p "$folder" "$work"
trap 'rm -rf "$root/$work"' EXIT

interpreters() {
    if [ "$folder" = build/wheel ]; then
        printf '%s\n' "$own"
        return
    fi
    if [ -n "${AEROGEL_PYTHONS:-}" ]; then
        tr ' ' '\n' <<<"$AEROGEL_PYTHONS"
        return
    fi
    printf '%s\n' "$own"
    "$own" -c 'import sys; sys.exit(sys.version_info >= (3, 12))' || return 0  # its wheel serves the later ones too
    local minor
    for minor in 12 13 14; do
        if "python3.$minor" -c 'import venv, ensurepip' 2>/dev/null; then
            command -v "python3.$minor"
            return
        fi
    done
}

# An environment of this interpreter in which to build: what pyproject.toml asks for comes from there.
build_wheel() {
    local python=$1 source=$2 name=$3
    "$python" -m venv "$work/$name"
    "$work/$name/bin/python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$work/$name/plain" "$source"
    PATH="$(dirname "$own"):$PATH" "$own" -m auditwheel repair --wheel-dir "$work/$name/out" "$work/$name"/plain/aerogel-*.whl
}

test_wheel() {
    local python=$1 wheel=$2 name=$3
    "$own" scripts/check_wheel.py "$wheel"
    "$python" -m venv "$work/$name-empty"
    "$work/$name-empty/bin/python" -m pip install --quiet --disable-pip-version-check "$wheel"
    local installed=$work/$name-empty/bin/python
    (cd /tmp && "$root/$installed" "$root/scripts/smoke_test.py")
    [ "$python" = "$own" ] || return 0
    local packages='import sysconfig; print(sysconfig.get_paths()["purelib"])'
    "$own" -c "$packages" >"$("$installed" -c "$packages")/torch_of_venv.pth"
    (cd /tmp && "$root/$installed" "$root/examples/python/quantize_transformer.py")
}

"$own" -m build --quiet --sdist --outdir "$folder" . || fail "the source distribution cannot be built"
source=$(ls "$folder"/aerogel-*.tar.gz)
[ "$folder" = dist ] || source=.  # what is compiled there is known to ccache
count=0
while read -r python; do
    count=$((count + 1))
    say "a wheel with $("$python" --version)"
    build_wheel "$python" "$source" "python$count"
    wheel=$(ls "$work/python$count/out"/aerogel-*.whl)
    [ ! -e "$folder/$(basename "$wheel")" ] || fail "two interpreters make $(basename "$wheel"): name others in AEROGEL_PYTHONS"
    cp "$wheel" "$folder"
    test_wheel "$python" "$folder/$(basename "$wheel")" "python$count"
done < <(interpreters)
"$own" -m twine check --strict "$folder"/aerogel-*
(cd "$folder" && sha256sum aerogel-* >SHA256SUMS)
ls "$folder"/aerogel-*-cp312-abi3-*.whl >/dev/null 2>&1 || [ "$folder" = build/wheel ] || say "no Python 3.12 or later was found: the wheel for those is missing"
say "$folder"
ls -l "$folder"
