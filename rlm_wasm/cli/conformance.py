"""``rlm-wasm guest conformance``: CPython's own tests, or numpy's, in the guest, and what is expected."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, replace
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
from rlm_wasm.conformance.tests_of_cpython import TestFiles, read_names, read_test_files
from rlm_wasm.conformance.tests_of_numpy import read_numpy_tests
from rlm_wasm.errors import UsageError
from rlm_wasm.guestbuild.manifest import Manifest, load_manifest
from rlm_wasm.guestbuild.recipe import DEFAULT_SERIES
from rlm_wasm.guestbuild.sources import SourceStore
from rlm_wasm.limits import BASE_IMAGE, BoundaryLimits, CellLimits, SessionLimits
from rlm_wasm.policy.model import Policy

# A module's tests run in one cell. What goes on for longer waits for something that does not come.
_FUEL_MAX = 300_000_000_000
_WALL_MS_MAX = 600_000
_MEMORY_BYTES_MAX = 1 << 30
_OUTPUT_BYTES_MAX = 8 << 20
_SLEEP_MS_MAX = 3_600_000


@click.command("conformance")
@click.argument("patterns", nargs=-1, metavar="[MODULE…]")
@click.option("--numpy", "of_numpy", is_flag=True, help="numpy's own tests, in the guest that has numpy.")
@click.option("--quick", is_flag=True, help="Only the language and the modules that are used most.")
@click.option("--write", is_flag=True, help="Write what was found into the file of expectations.")
@click.option(
    "--sources", type=click.Path(exists=True, file_okay=False, path_type=Path), envvar="RLM_WASM_SOURCES",
    help="A folder to look for the pinned files in (or RLM_WASM_SOURCES).",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def conformance(
    patterns: tuple[str, ...], of_numpy: bool, quick: bool, write: bool, sources: Path | None, as_json: bool
) -> None:
    """Run CPython's own tests in the guest and compare with what is expected.

    MODULE is a name such as test_json, or a pattern; without one all run, which takes an hour. The tests
    come out of the pinned tarball. Fails if a test fails that is expected to pass. With --numpy they are
    numpy's, and MODULE is a name such as numpy.linalg.tests.test_linalg.
    """
    # Here and not above: wasmtime and the sandbox are needed only where the guest itself runs.
    from rlm_wasm.conformance.run import ConformanceRun
    from rlm_wasm.inline.guest_loader import load_guest_program

    manifest = load_manifest()
    folder = manifest.folder / "conformance"
    suite = _of_numpy(manifest, sources) if of_numpy else _of_cpython(manifest, sources)
    path = folder / suite.expectations
    expected = load_expectations(path) if path.exists() else {}
    rules = load_rules(folder / "reasons.toml")
    chosen = read_names(folder / suite.quick) if quick else None
    files = suite.files
    names = [name for name in files.modules if _wanted(name, patterns, chosen)]
    if not names:
        raise UsageError(f"no module of {suite.whose} tests is called {' or '.join(patterns)}")
    loaded = load_guest_program(suite.image)
    found: list[ModuleVerdict] = []
    worse = False
    with ConformanceRun(loaded, folder / suite.program, files, *_limits()) as run:
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
            {suite.name: suite.version, "modules": summary.modules, "passed": summary.passed,
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


@dataclass(frozen=True, slots=True)
class _Suite:
    """Whose tests, of which version, and the files of ours in `guest/conformance` that are theirs."""

    name: str
    whose: str
    version: str
    files: TestFiles
    image: str
    program: str
    expectations: str
    quick: str


def _of_cpython(manifest: Manifest, sources: Path | None) -> _Suite:
    pin = manifest.python(DEFAULT_SERIES)
    files = read_test_files(_store(sources).fetch_any(pin.files))
    expectations = f"expected-{pin.series}.toml"
    return _Suite(
        "cpython", "CPython's", pin.version, files, BASE_IMAGE, "run_tests.py", expectations, "quick.txt"
    )


def _of_numpy(manifest: Manifest, sources: Path | None) -> _Suite:
    pin = manifest.package("numpy")
    store = _store(sources)
    files = read_numpy_tests(store.fetch_any(pin.files), [store.fetch(wheel) for wheel in pin.test_wheels])
    return _Suite(
        "numpy", "numpy's", pin.version, files, pin.name, "run_numpy_tests.py", "expected-numpy.toml",
        "quick-numpy.txt",
    )  # fmt: skip


def _store(sources: Path | None) -> SourceStore:
    return SourceStore(cache_dir() / "downloads", local=sources)


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
