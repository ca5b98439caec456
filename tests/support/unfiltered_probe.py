"""The doctor's probe in a worker that lacks its system-call filter, and does not know it."""

from __future__ import annotations

from rlm_wasm.jail.lockdown import seccomp
from rlm_wasm.jail.lockdown.probe import serve, warm

__all__ = ["serve", "warm"]

seccomp.install = lambda assembled: None
