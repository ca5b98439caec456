#!/bin/sh
# Builds dist/: the wheel with the guest in it, and the sdist. The same commit gives the same bytes.
# SOURCE_DATE_EPOCH is the commit's time unless it is set.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh venv
.venv/bin/rlm-wasm guest build
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "packing the guest (half a minute)" >&2
.venv/bin/python -m rlm_wasm.guestbuild.shipping "$work/shipped"
rm -rf dist
RLM_WASM_SHIPPED="$work/shipped" .venv/bin/python -m hatchling build -t wheel -d dist
.venv/bin/python -m hatchling build -t sdist -d dist
sha256sum dist/*
