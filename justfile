# The developer's recipes. CI needs none of them: it calls scripts/check.sh.

default:
    @just --list

# virtual environment, pinned dependencies, guest
setup:
    sh scripts/setup.sh

# what CI runs: lint, formatting, types, tests
check:
    sh scripts/check.sh

# the tests on a machine that refuses new namespaces, as most containers do; arguments go to pytest
check-bare *args:
    .venv/bin/python -m tests.support.refused_namespaces filtered .venv/bin/python -m pytest {{args}}

# tests alone; arguments go to pytest
test *args:
    .venv/bin/python -m pytest {{args}}

# sessions opened, broken, forked and closed in random order; fails if anything is left behind
soak sessions="100000" *seed:
    .venv/bin/python -m tests.support.churn {{sessions}} {{seed}}

# whole runs on virtual time, with faults and cancels that seeds draw, on every core
simulate seeds="10000" *more:
    .venv/bin/python -m tests.simulation --count {{seeds}} {{more}}

# worker processes killed, stopped, starved and cut off at every step of sessions and runs
faults count="2000" *seed:
    .venv/bin/python -m tests.faults {{count}} {{seed}}

# what work on a whole context takes; --write for the page in docs, or policies to try it at their full size
context-sizes *args:
    .venv/bin/python -m tests.context_sizes {{args}}

# an input of so many GiB in a guest of 512 MiB: found in, counted, sliced, gone through; --folder says where it lies
large-input gib="20" *more:
    .venv/bin/python -m tests.bench.large_input {{gib}} {{more}}

# cells as models write them: how many of each area work; --write brings the list of those that do not up to date
everyday *args:
    .venv/bin/python -m tests.everyday {{args}}

lint:
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/mypy

guest-build *args:
    .venv/bin/rlm-wasm guest build {{args}}

# the guest that has numpy: built (some minutes), tested, and held against numpy's own tests (an hour)
numpy *args:
    .venv/bin/rlm-wasm guest build --image numpy {{args}}
    .venv/bin/python -m pytest tests/unit/vm/test_numpy.py tests/e2e/test_numpy_guest.py
    .venv/bin/rlm-wasm guest conformance --numpy

# train CPython (some minutes) and keep what that leaves in guest/trained; --check only says whether it is the same
guest-train *args:
    .venv/bin/rlm-wasm guest train {{args}}

guest-verify:
    .venv/bin/rlm-wasm guest verify

# dist/: the wheel with the guest in it, and the sdist (docs/releasing.md)
wheel:
    sh scripts/wheel.sh

# the 50 MB example, end to end
run-example:
    sh scripts/first-light.sh

bench *args:
    .venv/bin/rlm-wasm bench {{args}}

doctor:
    .venv/bin/rlm-wasm doctor

# write what is made from tables and docstrings: docs/api.md, docs/events.md, docs/modules.md, threat_model/grades.toml, policies/container.toml
docs:
    .venv/bin/python -m tests.support.events_page
    .venv/bin/python -m tests.support.modules_page
    .venv/bin/python -m tests.support.api_page
    .venv/bin/python -m tests.support.grades_page
    .venv/bin/python -m tests.support.container_policy

# pin the dependencies again (needs uv)
lock:
    uv pip compile --extra dev --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -o requirements.lock pyproject.toml
