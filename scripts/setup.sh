#!/bin/sh
# Makes .venv with the pinned dependencies and this checkout in it, and builds the guest.
# Does nothing that is already done. PYTHON names the interpreter (3.11 to 3.15, not 3.14.0).
set -eu
cd "$(dirname "$0")/.."

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
  echo "error: no Python 3.11 to 3.15 found (3.14.0 does not do)" >&2
  echo "hint: apt-get install python3 python3-venv, or set PYTHON to one" >&2
  exit 2
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  echo "error: $python cannot make virtual environments" >&2
  echo "hint: apt-get install python3-venv" >&2
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
.venv/bin/rlm-wasm guest build
