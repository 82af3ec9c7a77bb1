#!/usr/bin/env bash
# Makes .venv from one of the locks; `make install` calls it.
# FLAVOUR=cpu|cuda and PYTHON=... choose; without them an existing .venv stays what it is.
# Safe to call again: an interrupted run is resumed, a finished one is left alone.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { printf 'install: %s\n' "$@" >&2; exit 1; }

has_nvidia_driver() { [ -e /proc/driver/nvidia/version ] || nvidia-smi -L >/dev/null 2>&1; }

is_supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; }

find_python() {
  local name
  for name in ${PYTHON:-python3.11 python3}; do
    if is_supported "$name"; then echo "$name"; return; fi
  done
  die "no Python from 3.11 up to 3.13 found, tried ${PYTHON:-python3.11 and python3}" \
    "install Python 3.11, or name one: make install PYTHON=/path/to/python3.12"
}

# The two flavours overwrite each other's files, and a moved environment points to its old place.
is_usable() {
  [ "$(cat .venv/identity 2>/dev/null)" = "$identity" ] && is_supported .venv/bin/python &&
    { [ -z "${PYTHON:-}" ] || [ "$(version_of "$PYTHON")" = "$(version_of .venv/bin/python)" ]; } &&
    .venv/bin/python -m pip --version >/dev/null 2>&1
}

version_of() { "$1" --version 2>&1 || true; }

make_venv() {
  local python
  python=$(find_python)
  echo "== .venv with $("$python" --version), $flavour flavour"
  rm -rf .venv
  if ! "$python" -m venv .venv; then
    rm -rf .venv
    die "$python cannot make a virtual environment" \
      "on Debian or Ubuntu: sudo apt-get install $(basename "$python")-venv"
  fi
  echo "$identity" >.venv/identity
}

# `+cpu` never matches the general registry's build for CUDA, so no CUDA package can come in here.
install_cpu_torch() {
  local errors
  errors=$(mktemp)
  if ! $pip "torch==$torch+cpu" 2>"$errors"; then
    grep -q "No matching distribution" "$errors" || { cat "$errors" >&2; return 1; }
    echo "== not in the configured package index; asking PyTorch's own"
    $pip "torch==$torch+cpu" --extra-index-url https://download.pytorch.org/whl/cpu
  fi
  rm -f "$errors"
}

# `===` takes the build without a local label, also where a `+cpu` build is on offer.
install_cuda_torch() { $pip "torch===$torch"; }

[ "$(uname -s)" = Linux ] || die "fbgemm has wheels for Linux (x86-64, arm64) only, this is $(uname -s)" \
  "use a Linux machine or container"

flavour=${FLAVOUR:-$(cut -d ' ' -f 1 .venv/identity 2>/dev/null || true)}
if [ -z "$flavour" ]; then
  if has_nvidia_driver; then flavour=cuda; else flavour=cpu; fi
fi
case $flavour in cpu | cuda) ;; *) die "FLAVOUR is cpu or cuda, got '$flavour'" ;; esac

lock=requirements/$flavour.txt
identity="$flavour $PWD"
stamp=$(cat "$lock" pyproject.toml requirements/install.sh | cksum)

if ! is_usable; then
  make_venv
elif [ "$(cat .venv/installed 2>/dev/null)" = "$stamp" ]; then
  echo "== .venv is up to date, $flavour flavour"
  exit 0
fi

pip=".venv/bin/python -m pip --disable-pip-version-check install --no-deps"
torch=$(sed -n 's/^torch==//p' "$lock")
echo "== torch $torch"
"install_${flavour}_torch"
echo "== the other packages of $lock"
$pip --quiet -r "$lock"
$pip --quiet --no-build-isolation -e .
.venv/bin/python -m recsys.doctor
echo "$stamp" >.venv/installed
