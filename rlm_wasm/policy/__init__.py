"""The operator's policy: read, checked, and handed out as the plain limits of `core`."""

from rlm_wasm.policy.builtin import builtin_names, builtin_path
from rlm_wasm.policy.model import Policy

__all__ = ["Policy", "builtin_names", "builtin_path"]
