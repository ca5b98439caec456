#!/bin/sh
# Makes .venv with the pinned dependencies and this checkout in it, and builds the guest and its image `data`;
# with the argument "venv", neither. Does nothing that is already done, and says everything that the machine
# lacks at once. PYTHON names the interpreter (3.11 to 3.15, not 3.14.0).
set -eu
cd "$(dirname "$0")/.."

lacks=""    # what, for a person
packages="" # what to install, by Debian's names
lack() {
  lacks="$lacks${lacks:+, }$1"
  packages="$packages $2"
}

python=${PYTHON:-}
if [ -z "$python" ]; then
  for candidate in python3.15 python3.14 python3.13 python3.12 python3.11 python3; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; v = sys.version_info[:3]; sys.exit(not (3, 11) <= v[:2] <= (3, 15) or v == (3, 14, 0))' 2>/dev/null; then
      python=$candidate
      break
    fi
  done
fi
if [ -z "$python" ]; then
  lack "Python 3.11 to 3.15 (3.14.0 does not do; PYTHON may name one)" "python3 python3-venv"
elif [ ! -x .venv/bin/python ] && ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  # Debian has a package of it for each version of Python.
  lack "virtual environments for $python" "$(basename "$python")-venv"
fi
# A guest that is built needs no compiler.
cache=${RLM_WASM_CACHE:-${XDG_CACHE_HOME:-${HOME:-}/.cache}/rlm-wasm}
if [ -z "$(ls -A "$cache/guests" 2>/dev/null || true)" ]; then
  compiler=$(command -v cc || command -v gcc || true)
  if [ -z "$compiler" ]; then
    lack "a C compiler" "gcc libc6-dev"
  elif ! echo '#include <stdio.h>' | "$compiler" -fsyntax-only -x c - 2>/dev/null; then
    lack "the C library's headers" "libc6-dev"
  fi
fi
if [ ! -d /proc/self/fd ]; then
  echo "error: /proc is not mounted" >&2
  echo "hint: mount -t proc proc /proc" >&2
  exit 2
fi
if [ -n "$lacks" ]; then
  echo "error: this machine lacks $lacks" >&2
  echo "hint: apt-get update && apt-get install -y$packages" >&2
  exit 2
fi

# The stamp is the hash of what was installed, written last: an interrupted install runs again.
stamp=$(cat requirements.lock pyproject.toml | sha256sum | cut -d' ' -f1)
if [ "$(cat .venv/.installed 2>/dev/null || true)" != "$stamp" ]; then
  echo "setting up .venv with $("$python" --version)" >&2
  "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
  echo "$stamp" > .venv/.installed
fi
if [ "${1:-}" != venv ]; then
  .venv/bin/rlm-wasm guest build
  # What tests of packages use; all else works without.
  .venv/bin/rlm-wasm guest image data ||
    echo "note: the image data was not made, which only its own tests and users need" >&2
fi
