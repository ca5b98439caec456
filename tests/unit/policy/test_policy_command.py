"""`rlm-wasm policy check` and `policy show`, as a user calls them."""

from __future__ import annotations

import json
import tomllib

import pytest
from click.testing import CliRunner

from rlm_wasm.cli.policy import policy
from rlm_wasm.policy.builtin import builtin_path
from rlm_wasm.policy.model import Policy

KNOWN = "hint: a policy is a TOML file, or a built-in one: container, standard, strict"


@pytest.fixture
def run():
    return lambda *words: CliRunner().invoke(policy, words, catch_exceptions=False)


def test_check_of_a_good_file_says_so_on_stdout(run):
    path = str(builtin_path("strict"))
    result = run("check", path)
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{path}: ok\n", "")


def test_check_of_a_bad_file_exits_with_2_and_points_at_the_line(run, edited, line_of):
    path = edited(("seed = 0", "seed = -1"))
    result = run("check", str(path))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == f"{path}:{line_of('seed = 0')}: sandbox.seed: must be at least 0 (got -1)\n"


def test_check_of_several_files_tells_about_each(run, edited):
    result = run("check", str(edited(("seed = 0", "seed = -1"))), str(builtin_path("standard")), "none.toml")
    assert result.exit_code == 2
    assert result.stdout == f"{builtin_path('standard')}: ok\n"
    assert "sandbox.seed" in result.stderr
    assert "none.toml: cannot be read" in result.stderr


def test_check_takes_the_names_of_built_in_policies(run):
    result = run("check", "strict", "standard")
    assert (result.exit_code, result.stdout) == (0, "strict: ok\nstandard: ok\n")
    result = run("check", "stict")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == KNOWN


def test_check_puts_its_hint_under_its_message_without_an_empty_line(run):
    result = run("check", "none.toml")
    assert "" not in result.stderr.splitlines()
    assert KNOWN in result.stderr


def test_check_without_a_file_is_a_usage_error(run):
    assert run("check").exit_code == 2


def test_show_prints_toml_that_is_the_policy(run):
    result = run("show", "strict")
    assert result.exit_code == 0
    assert Policy.from_mapping(tomllib.loads(result.stdout)) == Policy.builtin("strict")


def test_show_json_prints_one_document_that_is_the_policy(run):
    result = run("show", "--json", "standard")
    assert result.exit_code == 0
    assert Policy.from_mapping(json.loads(result.stdout)) == Policy.builtin("standard")


def test_show_of_an_unknown_name_exits_with_2_and_lists_the_known_ones(run):
    result = run("show", "stict")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert KNOWN in result.stderr


def test_show_of_a_bad_file_exits_with_2(run, edited):
    result = run("show", str(edited(("seed = 0", ""))))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "sandbox.seed: is missing" in result.stderr
