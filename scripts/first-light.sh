#!/bin/sh
# Sets everything up and answers the example question about a 50 MB text. No key, no network model.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh venv
# Before the guest is built, which takes minutes: what this machine can lock down decides the policy.
policy=$(.venv/bin/rlm-wasm doctor --policy)
.venv/bin/rlm-wasm guest build
haystack=$(mktemp)
trap 'rm -f "$haystack"' EXIT
.venv/bin/python examples/needle/make_haystack.py --bytes 50000000 --seed 7 > "$haystack"
.venv/bin/rlm-wasm run --policy "$policy" --model script:examples/needle/model.toml \
  --context "$haystack" "What is the magic number?"
