"""``rlm-wasm guest conformance``: CPython's own tests in the guest, held against what is expected of them."""

from __future__ import annotations

import fnmatch
from dataclasses import replace
from pathlib import Path

import click

from rlm_wasm.artifacts.paths import cache_dir
from rlm_wasm.cli import output
from rlm_wasm.conformance.expectations import (
    Expected,
    compare,
    load_expectations,
    load_rules,
    observed,
    render,
)
from rlm_wasm.conformance.outcomes import CRASH, FAIL, PASS, SKIP, ModuleVerdict, total
from rlm_wasm.conformance.tests_of_cpython import read_names, read_test_files
from rlm_wasm.errors import UsageError
from rlm_wasm.guestbuild.manifest import load_manifest
from rlm_wasm.guestbuild.recipe import DEFAULT_SERIES
from rlm_wasm.guestbuild.sources import SourceStore
from rlm_wasm.limits import BoundaryLimits, CellLimits, SessionLimits
from rlm_wasm.policy.model import Policy

# A module's tests run in one cell. What goes on for longer waits for something that does not come.
_FUEL_MAX = 300_000_000_000
_WALL_MS_MAX = 600_000
_MEMORY_BYTES_MAX = 1 << 30
_OUTPUT_BYTES_MAX = 8 << 20
_SLEEP_MS_MAX = 3_600_000


@click.command("conformance")
@click.argument("patterns", nargs=-1, metavar="[MODULE…]")
@click.option("--quick", is_flag=True, help="Only the language and the modules that are used most.")
@click.option("--write", is_flag=True, help="Write what was found into the file of expectations.")
@click.option(
    "--sources", type=click.Path(exists=True, file_okay=False, path_type=Path), envvar="RLM_WASM_SOURCES",
    help="A folder to look for CPython's tarball in (or RLM_WASM_SOURCES).",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def conformance(
    patterns: tuple[str, ...], quick: bool, write: bool, sources: Path | None, as_json: bool
) -> None:
    """Run CPython's own tests in the guest and compare with what is expected.

    MODULE is a name such as test_json, or a pattern; without one all run, which takes an hour. The tests
    come out of the pinned tarball. Fails if a test fails that is expected to pass.
    """
    # Here and not above: wasmtime and the sandbox are needed only where the guest itself runs.
    from rlm_wasm.conformance.run import ConformanceRun
    from rlm_wasm.inline.guest_loader import load_guest_program

    manifest = load_manifest()
    pin = manifest.python(DEFAULT_SERIES)
    files = read_test_files(SourceStore(cache_dir() / "downloads", local=sources).fetch_any(pin.files))
    folder = manifest.folder / "conformance"
    path = folder / f"expected-{pin.series}.toml"
    expected = load_expectations(path) if path.exists() else {}
    rules = load_rules(folder / "reasons.toml")
    chosen = read_names(folder / "quick.txt") if quick else None
    names = [name for name in files.modules if _wanted(name, patterns, chosen)]
    if not names:
        raise UsageError(f"no module of CPython's tests is called {' or '.join(patterns)}")
    found: list[ModuleVerdict] = []
    worse = False
    with ConformanceRun(load_guest_program(), folder, files, *_limits()) as run:
        for name in names:
            module = run.module(name)
            found.append(module)
            difference = compare(module, expected.get(name))
            worse = worse or (difference is not None and bool(difference.worse or difference.missing))
            if not as_json:
                _show(module, expected.get(name))
    if write:
        seen = {module.name: observed(module, expected.get(module.name), rules) for module in found}
        kept = {name: each for name, each in expected.items() if name in files.modules}
        path.write_text(render({**kept, **seen}), encoding="utf-8")
    summary = total(found)
    if as_json:
        output.document(
            {"cpython": pin.version, "modules": summary.modules, "passed": summary.passed,
             "failed": summary.failed, "crashed": summary.crashed, "skipped": summary.skipped,
             "share": round(summary.share, 4)}
        )  # fmt: skip
    else:
        click.echo(
            f"\n{summary.passed} of {summary.passed + summary.failed + summary.crashed} tests pass "
            f"({summary.share:.1%}) in {summary.modules} modules; {summary.skipped} skip themselves"
        )
    if worse and not write:
        raise SystemExit(1)


def _wanted(name: str, patterns: tuple[str, ...], chosen: frozenset[str] | None) -> bool:
    if patterns:
        return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    return chosen is None or name in chosen


def _limits() -> tuple[SessionLimits, BoundaryLimits, CellLimits]:
    """The limits of the policy `strict`, but for what a whole module of tests needs."""
    policy = Policy.builtin("strict")
    session = replace(policy.session_limits(), memory_bytes_max=_MEMORY_BYTES_MAX, clock="virtual")
    cell = replace(
        policy.cell, fuel_max=_FUEL_MAX, wall_ms_max=_WALL_MS_MAX,
        stdout_bytes_max=_OUTPUT_BYTES_MAX, source_bytes_max=_OUTPUT_BYTES_MAX, sleep_ms_max=_SLEEP_MS_MAX,
    )  # fmt: skip
    return session, policy.boundary, cell


def _show(module: ModuleVerdict, expected: Expected | None) -> None:
    counts = [module.count(outcome) for outcome in (PASS, FAIL, CRASH, SKIP)]
    note = "" if module.whole.outcome == PASS else f"{module.whole.outcome}: {module.whole.reason[:60]}"
    click.echo(f"{module.name:36}" + "".join(f"{count:7}" for count in counts) + f"  {note}")
    difference = compare(module, expected)
    if difference is not None:
        for test in difference.worse:
            outcome = module.failed.get(test)
            click.echo(f"    not expected: {test}{'' if outcome is None else f' ({outcome.reason[:160]})'}")
        for test in difference.better:
            click.echo(f"    passes now: {test}")
        if difference.missing and not difference.worse:
            click.echo(f"    {difference.missing} tests that were to pass did not run")
