#!/bin/sh
# Everything that must be green: lint, formatting, types, tests. Arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh
echo "== ruff" && .venv/bin/ruff check .
.venv/bin/ruff format --check .
echo "== mypy" && .venv/bin/mypy
echo "== pytest" && .venv/bin/python -m pytest "$@"
