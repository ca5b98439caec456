"""`rlm-wasm guest conformance`: some modules of CPython's own tests come to what the committed file says."""

from __future__ import annotations

import pytest

from tests.support.command_line import document, rlm_wasm

pytestmark = [pytest.mark.guest, pytest.mark.slow]

MODULES = ("test_bool", "test_bz2", "test_heapq", "test_sqlite3", "test_textwrap", "test_zoneinfo")


def test_some_modules_come_to_what_is_expected_of_them() -> None:
    ended = rlm_wasm("guest", "conformance", *MODULES, "--json")
    assert ended.returncode == 0, ended.stdout.decode() + ended.stderr.decode()
    told = document(ended)
    assert told["modules"] == len(MODULES)
    assert told["share"] >= 0.95


def test_a_module_that_is_none_is_a_usage_error() -> None:
    ended = rlm_wasm("guest", "conformance", "test_of_nothing")
    assert ended.returncode == 2
    assert b"no module of CPython's tests is called test_of_nothing" in ended.stderr
