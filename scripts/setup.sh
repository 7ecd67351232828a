#!/usr/bin/env bash
# Prepares a Debian 12 machine. Safe to run again: it installs only what is missing, and the second run takes a
# fraction of a second.
#   scripts/setup.sh        all that building and testing need, with PyTorch in .venv
#   scripts/setup.sh demo   only what the command and the demo need; the rest can follow in the same .venv
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

what=${1:-all}
packages=(build-essential ca-certificates ccache cmake ffmpeg libcli11-dev libeigen3-dev libfmt-dev libpcre2-dev
    libpng-dev libutf8proc-dev libyaml-cpp-dev ninja-build nlohmann-json3-dev python3 python3-venv)
requirements=examples/demo/requirements.txt
case $what in
    demo) ;;
    all)
        packages+=(clang-14 clang-format-14 clang-tidy-14 git libclang-rt-14-dev libgmock-dev libgtest-dev
            pkg-config python3-dev qemu-user)
        requirements=requirements.txt
        ;;
    *)
        printf 'usage: scripts/setup.sh [demo]\n' >&2
        exit 1
        ;;
esac

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

missing_packages() {
    local installed
    installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${packages[@]}" 2>/dev/null |
        awk '$2 == "installed" {print $1}' || true)
    for package in "${packages[@]}"; do
        grep -qxF "$package" <<<"$installed" || printf '%s ' "$package"
    done
}

install_packages() {
    if ! command -v dpkg-query >/dev/null; then
        fail "this is no Debian system. Install the equivalents of: ${packages[*]};" \
            "then run again with AEROGEL_SKIP_APT=1."
    fi
    local missing as_root=()
    read -ra missing <<<"$(missing_packages)"
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null ||
            fail "these packages are missing, and there is no sudo to install them. As root: apt-get install ${missing[*]}"
        as_root=(sudo)
    fi
    say "installing ${missing[*]}"
    local log
    log=$(mktemp)
    if ! { "${as_root[@]}" apt-get update &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        fail "apt-get failed (above: the end of $log)"
    fi
    rm -f "$log"
}

# The first Python that is new enough and can make environments: PATH's, else Debian's.
find_python() {
    local candidate
    for candidate in "${AEROGEL_PYTHON:-python3}" /usr/bin/python3; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s' "$candidate"
            return
        fi
    done
    fail "no Python >= 3.11 with venv found (tried ${AEROGEL_PYTHON:-python3}, /usr/bin/python3)"
}

# One stamp for each list of requirements; the full list contains the demo's.
install_python() {
    local stamp=.venv/.$what.sha256 want all=.venv/.all.sha256
    want=$(sha256sum "$requirements")
    if [ -x .venv/bin/python ]; then
        [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && return
        [ "$what" = demo ] && [ -f "$all" ] && [ "$(cat "$all")" = "$(sha256sum requirements.txt)" ] && return
    fi
    local python torch
    python=$(find_python)
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        say "creating .venv with $("$python" --version)"
        "$python" -m venv --clear .venv
    fi
    say "installing $requirements into .venv"
    # PyTorch first and alone: another package's wish could otherwise bring a build of several gigabytes.
    torch=$(grep -E '^torch==' "$requirements" || true)
    [ -z "$torch" ] || .venv/bin/python -m pip install --quiet "$torch"
    .venv/bin/python -m pip install --quiet -r "$requirements"
    # Its headers alone (CuTe, for tests/emulator): what the package depends on is for its Python side.
    [ "$what" = demo ] || .venv/bin/python -m pip install --quiet --no-deps nvidia-cutlass==4.2.0.0
    printf '%s\n' "$want" >"$stamp"
}

# Whether it is there and as new as cmake/cuda.cmake wants it.
nvcc_serves() {
    local release
    release=$("$1" --version 2>/dev/null | sed -n 's/.*release \([0-9]*\)\..*/\1/p') || return 1
    [ "${release:-0}" -ge 13 ]
}

# cmake/cuda.cmake looks at the same places.
install_nvcc() {
    local stamp=.venv/.nvcc.sha256 want
    [ "$what" = all ] || return 0
    nvcc_serves nvcc || nvcc_serves "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" && return 0
    want=$(sha256sum requirements-nvcc.txt)
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && return 0
    say "installing requirements-nvcc.txt into .venv"
    .venv/bin/python -m pip install --quiet -r requirements-nvcc.txt
    printf '%s\n' "$want" >"$stamp"
}

[ -n "${AEROGEL_SKIP_APT:-}" ] || install_packages
install_python
install_nvcc
