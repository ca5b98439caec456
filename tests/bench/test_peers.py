"""`rlm-wasm bench --peers` measures what is installed and says what is not; figures are never asserted."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import pytest
from click.testing import CliRunner

from rlm_wasm.bench import peer_bench, peers
from rlm_wasm.cli.bench import bench

NAMES = {
    "first_result_us",
    "warm_cell_us",
    "host_call_us",
    "fib_ms",
    "loop_ms",
    "json_ms",
    "regex_ms",
    "words_ms",
}


@pytest.fixture
def only_native(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where no peer is installed."""
    real = importlib.import_module

    def import_module(name: str, package: str | None = None) -> Any:
        if name.partition(".")[0] in ("pydantic_monty", "dspy"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", import_module)
    monkeypatch.setenv("PATH", "/nonexistent")


@pytest.mark.guest
@pytest.mark.usefixtures("only_native")
def test_this_interpreter_and_ours_run_the_same_snippets_and_absent_peers_are_named() -> None:
    done = CliRunner().invoke(bench, ["--peers", "--quick", "--json"])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    for peer in ("rlm-wasm", "native"):
        mine = {figure["name"]: figure for figure in figures if figure["peer"] == peer}
        assert mine.keys() == NAMES | {"present"}
        assert all(mine[name]["value"] > 0 and mine[name]["n"] >= 3 for name in NAMES)
    absent = {figure["peer"]: figure for figure in figures if figure["name"] == "absent"}
    assert absent.keys() == {"monty", "pyodide"}
    assert "pydantic-monty is not installed" in absent["monty"]["note"]
    assert "deno is not on the PATH" in absent["pyodide"]["note"]
    assert all(figure["value"] is None for figure in absent.values())


@pytest.mark.guest
@pytest.mark.usefixtures("only_native")
def test_the_table_has_a_column_for_each_peer_that_is_here() -> None:
    done = CliRunner().invoke(bench, ["--peers", "--quick"])
    header = next(line for line in done.output.splitlines() if line.startswith(" "))
    assert header.split() == ["rlm-wasm", "native"]
    assert "monty     absent:" in done.output


def test_a_wrong_result_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that computes something else is not fast."""
    monkeypatch.setattr(peers._NativeSession, "value", lambda self, expression: "3")
    figures = peer_bench._PeerBench("native", peers.Native(), quick=True).figures()
    assert {figure.name for figure in figures} == NAMES
    assert {figure.value for figure in figures} == {None}
    assert "1+1 is '3', not 2" in figures[0].note


def test_peers_and_single_measurements_exclude_each_other() -> None:
    done = CliRunner().invoke(bench, ["--peers", "--only", "fork_us"])
    assert done.exit_code == 2


def test_no_peer_is_imported_unless_it_is_measured() -> None:
    assert not {"pydantic_monty", "dspy"} & sys.modules.keys()
