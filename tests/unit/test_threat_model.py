"""The threat model says what is there: imports as built, tests that exist."""

from __future__ import annotations

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
