"""Puts the built guest into a wheel, where the folder that holds it is named: see docs/releasing.md.

Without that a wheel is pure Python, and its guest is built from the sources that it carries.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Filled by `python -m rlm_wasm.guestbuild.shipping FOLDER`.
FOLDER = "RLM_WASM_SHIPPED"
# No machine code of ours is in it; the lock-down's tables and the dependencies' wheels are for these.
TAG = "py3-none-manylinux_2_28_x86_64"


class GuestInWheel(BuildHookInterface[Any]):
    """The hook that hatchling calls before it builds."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the guest's files, and the tag of the machines that they are for."""
        folder = os.environ.get(FOLDER)
        if not folder or version != "standard":
            return
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        if not files:
            raise FileNotFoundError(f"{FOLDER} names {folder}, which holds no packed guest")
        for path in files:
            build_data["force_include"][str(path)] = (
                f"rlm_wasm/_shipped/{path.relative_to(folder).as_posix()}"
            )
        build_data["pure_python"] = False
        build_data["tag"] = TAG
