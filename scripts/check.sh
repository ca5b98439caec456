#!/bin/sh
# Everything that must be green: lint, formatting, types, tests. Arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh
echo "== ruff" && .venv/bin/ruff check .
.venv/bin/ruff format --check .
echo "== mypy" && .venv/bin/mypy
# All tests: several files at a time, since much of what they do is to wait for processes of their own.
# Not where namespaces of users are refused: all workers are one user there, whose limit on processes some set.
if [ "$#" -eq 0 ] && unshare --user true 2> /dev/null; then
  processes=$(nproc)
  [ "$processes" -le 4 ] || processes=4
  set -- -n "$processes" --dist loadfile
fi
echo "== pytest $*" && .venv/bin/python -m pytest "$@"
