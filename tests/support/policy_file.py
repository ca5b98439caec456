"""A policy written to a file: strict, or what of it this machine can give, with some keys changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlm_wasm.policy.builtin import builtin_path
from rlm_wasm.policy.model import Policy
from tests.support.machine_grade import POLICY_HERE


def write_policy(path: Path, **sections: dict[str, Any]) -> Path:
    """Write strict's text, as this machine can give it, with the given keys of its tables replaced.

    It is checked to be valid.
    """
    unlocked = sections.get("sandbox", {}).get("require_lockdown") is False
    table = ""
    lines = []
    left = {(name, key) for name, keys in sections.items() for key in keys}
    for line in builtin_path(POLICY_HERE).read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            table = line.strip("[]")
        key, equals, _ = line.partition(" = ")
        if key == "lockdown" and unlocked:
            continue
        if equals and (table, key) in left:
            left.remove((table, key))
            value = sections[table][key]
            line = f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}"
        lines.append(line)
    assert not left, left
    path.write_text("\n".join(lines), encoding="utf-8")
    Policy.load(path)
    return path
