"""``python -m rlm_wasm``: the command line."""

from __future__ import annotations

from rlm_wasm.cli.start import entry

entry()
