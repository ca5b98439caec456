"""The committed file of what CPython's tests come to: read, compared with a run, and written anew."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rlm_wasm.conformance.outcomes import CRASH, PASS, SKIP, ModuleVerdict, Verdict
from rlm_wasm.errors import ArtifactError

_HEAD: Final = """\
# What CPython's own tests come to in the guest, one table a module: how many tests pass, how many skip
# themselves, and of each that fails the reason. A module without a test that ran says why.
# Written by `rlm-wasm guest conformance --write`. A reason that reasons.toml has no rule for is
# "unknown: ..." and has to be found out.
"""
UNKNOWN: Final = "unknown: "


@dataclass(frozen=True, slots=True)
class Expected:
    """What one module comes to: tests by outcome, the failing ones with a reason, or why none runs."""

    passed: int
    skipped: int
    failed: Mapping[str, str]
    whole: str = ""


def load_expectations(path: Path) -> dict[str, Expected]:
    """Read the file; ArtifactError names what is wrong with it."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ArtifactError(f"{path}: {error}") from error
    return {name: _expected(path, name, table) for name, table in values.items()}


def _expected(path: Path, name: str, table: Any) -> Expected:
    match table:
        case {"passed": int(passed), "skipped": int(skipped), **rest}:
            failed, whole = rest.pop("failed", {}), rest.pop("whole", "")
            if not rest and isinstance(failed, dict) and isinstance(whole, str):
                return Expected(passed, skipped, failed, whole)
    raise ArtifactError(f"{path}: {name}: must have passed and skipped, and may have failed and whole")


@dataclass(frozen=True, slots=True)
class Deviation:
    """Of a module: failures that nobody expects, expected ones that pass, tests that are gone."""

    module: str
    worse: tuple[str, ...]
    better: tuple[str, ...]
    missing: int


Rules = tuple[tuple[re.Pattern[str], str], ...]


def load_rules(path: Path) -> Rules:
    """Read why tests fail that the guest is not to blame for: a pattern of what they say, and the reason."""
    try:
        rules = tomllib.loads(path.read_text(encoding="utf-8"))["rule"]
        return tuple((re.compile(rule["says"]), rule["reason"]) for rule in rules)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, re.error, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: {error}") from error


def compare(found: ModuleVerdict, expected: Expected | None) -> Deviation | None:
    """Return how a module differs from what is expected of it; None where it does not."""
    expected = expected or Expected(0, 0, {})
    failed = found.failed
    worse = sorted(failed.keys() - expected.failed.keys())
    if found.whole.outcome == SKIP and not expected.whole:
        worse.append(f"{found.name} is skipped: {found.whole.reason}")
    better = sorted(expected.failed.keys() - failed.keys())
    missing = max(0, expected.passed - found.count(PASS))
    if not worse and not better and not missing:
        return None
    return Deviation(found.name, tuple(worse), tuple(better), missing)


def reason(outcome: Verdict, rules: Rules) -> str:
    """Say why a test fails, by the first rule that fits; a message without a rule is an unknown reason."""
    for pattern, known in rules:
        if pattern.search(outcome.reason):
            return known
    kind = "ended the guest: " if outcome.outcome == CRASH else ""
    return f"{UNKNOWN}{kind}{outcome.reason[-200:]}"


def observed(module: ModuleVerdict, before: Expected | None, rules: Rules) -> Expected:
    """Return what is to be expected from now on. Reasons that somebody wrote are kept."""
    known = before.failed if before is not None else {}
    failed = {}
    for test, outcome in sorted(module.failed.items()):
        said = known.get(test, "")
        failed[test] = reason(outcome, rules) if not said or said.startswith(UNKNOWN) else said
    whole = module.whole.reason if module.whole.outcome == SKIP else ""
    return Expected(module.count(PASS), module.count(SKIP), failed, whole)


def render(modules: Mapping[str, Expected]) -> str:
    """Return the file's text."""
    parts = [_HEAD]
    for name, module in sorted(modules.items()):
        # A name may have dots: TOML would take it for tables in tables.
        table = name if name.isidentifier() else _text(name)
        lines = [f"\n[{table}]", f"passed = {module.passed}", f"skipped = {module.skipped}"]
        if module.whole:
            lines.append(f"whole = {_text(module.whole)}")
        lines += [f"failed.{_text(test)} = {_text(said)}" for test, said in sorted(module.failed.items())]
        parts.append("\n".join(lines) + "\n")
    return "".join(parts)


def _text(text: str) -> str:
    # Of JSON's strings TOML takes all but one sign.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
