"""The threat model says what is there: imports as built, tests that exist."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from rlm_wasm.artifacts.installed import find_guest
from rlm_wasm.vm.imports import IMPORTS, MODULE
from rlm_wasm.vm.wasm_format import read_imports

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "threat_model"


def _listed_imports() -> dict[str, dict[str, str]]:
    return tomllib.loads((MODEL / "host_imports.toml").read_text())["imports"]


def test_each_import_has_a_reason_and_bounds_and_is_what_the_host_defines():
    listed = _listed_imports()
    assert set(listed) == set(IMPORTS)
    for name, entry in listed.items():
        assert entry["why"], name
        assert entry["bounds"], name
        parameters, result, _ = IMPORTS[name]
        wanted = re.findall(r": (i32|i64)", entry["signature"].split("->")[0])
        assert wanted == [str(p) for p in parameters], name
        assert entry["signature"].rsplit("-> ", 1)[1] == str(result), name


@pytest.mark.guest
def test_the_built_module_imports_exactly_the_listed_functions():
    found = read_imports(find_guest().read_raw())
    assert {(module, name) for module, name, _ in found} == {(MODULE, name) for name in _listed_imports()}
    assert {kind for _, _, kind in found} == {"func"}


def test_every_threat_names_tests_that_exist_and_every_marked_test_names_a_threat():
    threats = tomllib.loads((MODEL / "threats.toml").read_text())["threat"]
    ids = [threat["id"] for threat in threats]
    assert len(ids) == len(set(ids))
    for threat in threats:
        assert threat["tests"], threat["id"]
        for test in threat["tests"]:
            file, _, name = test.partition("::")
            assert f"def {name}(" in (ROOT / file).read_text(), test
    marked = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        marked |= set(re.findall(r"mark\.threat\(\"(T-\d+)\"\)", file.read_text()))
    assert marked <= set(ids)


def _symbols(source: str) -> set[str]:
    """Return the names a module defines: constants, functions, classes, and `Class.method`."""
    found = set()
    for node in ast.parse(source).body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case ast.ClassDef(name=name, body=body):
                found.add(name)
                for inner in body:
                    if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                        found.add(f"{name}.{inner.name}")
            case ast.Assign(targets=targets):
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
    return found


def _c_symbols(source: str) -> set[str]:
    """Return the functions that a C file defines, and its constants."""
    return set(re.findall(r"^(?:#define (?=\w+ )|\w[\w *]*?[ *](?=\w+\([^;]*$))(\w+)", source, re.MULTILINE))


def _lacking(controls: list[str]) -> list[str]:
    """Return the controls that are not there, each `path::Symbol`."""
    lacking = []
    for control in controls:
        file, _, symbol = control.partition("::")
        path = ROOT / file
        symbols = _c_symbols if path.suffix in (".c", ".h") else _symbols
        if not path.is_file() or symbol not in symbols(path.read_text()):
            lacking.append(control)
    return lacking


def test_every_threat_names_controls_that_are_in_the_code():
    for threat in tomllib.loads((MODEL / "threats.toml").read_text())["threat"]:
        assert threat["controls"], threat["id"]
        assert _lacking(threat["controls"]) == [], threat["id"]


@pytest.mark.parametrize(
    "control",
    [
        "rlm_wasm/scheduler/ledger.py::Ledger.give_away",
        "rlm_wasm/scheduler/no_module.py::Ledger",
        "rlm_wasm/scheduler/ledger.py",
    ],
)
def test_a_control_that_is_not_there_is_found(control: str):
    assert _lacking([control, "rlm_wasm/scheduler/ledger.py::Ledger.reserve"]) == [control]
