"""The key of saved snapshots: the caller's, or the one in the variable that the policy names."""

from __future__ import annotations

import os
import re
from typing import Final

from rlm_wasm.errors import UsageError
from rlm_wasm.policy.model import Policy

_KEY: Final = re.compile(r"[0-9a-fA-F]{64}")


def snapshot_key(policy: Policy, given: bytes | None) -> bytes:
    """Return `given`, or the key that the policy names; it is read anew each time and kept nowhere.

    Raises:
        UsageError: there is neither, or the variable does not hold 64 hexadecimal digits.
    """
    if given is not None:
        return given
    name = policy.sandbox.snapshot_key_env
    if not name:
        raise UsageError(
            "a saved snapshot needs a key, and sandbox.snapshot_key_env names none",
            hint="give `key` (32 bytes), or name an environment variable in the policy",
        )
    value = os.environ.get(name)
    if value is None:
        raise UsageError(f"the environment variable {name}, which sandbox.snapshot_key_env names, is not set")
    if not _KEY.fullmatch(value):
        raise UsageError(f"the environment variable {name} does not hold a key of 64 hexadecimal digits")
    return bytes.fromhex(value)
