"""`rlm-wasm policy check`, `show` and `init`, as a user calls them."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib

import pytest
from click.testing import CliRunner

from rlm_wasm.cli.policy import policy
from rlm_wasm.engine.description import WrittenPolicy
from rlm_wasm.errors import UsageError
from rlm_wasm.limits import ModelPrice
from rlm_wasm.policy.builtin import builtin_names, builtin_path
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


def test_show_keeps_comments_and_states_the_digest_of_what_it_shows_without_them(run, tmp_path):
    path = tmp_path / "p.toml"
    path.write_text('extends = "strict"\n\n[cell]\n# not much\nfuel_max = 7\n')
    result = run("show", str(path))
    plain = run("show", "--plain", str(path)).stdout
    digest = hashlib.sha256(plain.encode()).hexdigest()
    assert result.stdout.splitlines()[:2] == [
        f"# In force with {path}, which extends strict.",
        f"# policy_sha256 of its runs: {digest}",
    ]
    assert "# not much\nfuel_max = 7\n" in result.stdout
    assert "#" not in plain
    assert WrittenPolicy.of(Policy.load(path)).sha256 == digest


@pytest.mark.parametrize("base", builtin_names())
def test_init_writes_a_policy_that_is_the_one_it_extends_with_or_without_its_marks(run, tmp_path, base):
    path = tmp_path / "mine.toml"
    result = run("init", str(path), "--extends", base)
    assert (result.exit_code, result.stdout) == (0, "")
    assert Policy.load(path) == Policy.builtin(base)
    text = path.read_text()
    keys = re.sub(r"^#(?=[a-z\[])", "", text, flags=re.MULTILINE)
    assert keys != text
    (tmp_path / "all.toml").write_text(keys)
    changed = Policy.load(tmp_path / "all.toml")
    assert changed.events.texts
    assert changed.providers["openai"].base_url == "http://localhost:8000/v1"
    assert changed.price("openai:my-model") == ModelPrice(0, 0)
    same = Policy.builtin(base)
    assert (changed.budget, changed.run) == (same.budget, same.run)
    assert (changed.models.root, changed.models.sub) == (same.models.root, same.models.sub)


def test_init_leaves_a_file_that_is_there(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.toml").write_text("mine")
    with pytest.raises(UsageError, match=r"policy\.toml is there already"):
        run("init")
    assert (tmp_path / "policy.toml").read_text() == "mine"


def test_init_that_cannot_write_says_why(run, tmp_path):
    with pytest.raises(UsageError, match="No such file or directory"):
        run("init", str(tmp_path / "none" / "p.toml"))


def test_init_to_standard_output_writes_no_file(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("init", "-")
    assert tomllib.loads(result.stdout)["extends"] == "strict"
    assert list(tmp_path.iterdir()) == []
