"""The pages about the API: the reference lists every public name, and every usage runs as it stands."""

from __future__ import annotations

import inspect
import re
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import rlm_wasm
from rlm_wasm import Policy
from tests.support.api_page import PAGE, error_classes, page, public_names
from tests.support.machine_grade import POLICY_HERE

USAGES = (PAGE.parent / "usages.md").read_text()
BLOCKS = re.findall(r"## ([^\n]+)\n\n```python\n(.*?)```", USAGES, re.DOTALL)
PRINTED = {
    "One other limit": "60000\n",
    "A value in and out": "[{'name': 'Ann', 'age': 41}]\n",
    "My own model in a sandbox": "17 characters\n",
    "Why did it stop?": "memory_exceeded sandbox.memory_bytes_max alive\n",
    "Fork a saved session in a runtime": "[3, 4]\n",
}
MODEL = "[[reply]]\nrole = 'root'\ntext = '''\n```repl\nFINAL(prices())\n```'''\n"


def test_the_reference_is_what_the_docstrings_say() -> None:
    assert PAGE.read_text() == page(), "run `just docs`"


def test_the_reference_lists_every_public_name_and_every_error() -> None:
    names = set(re.findall(r"^## (\w+)$", PAGE.read_text(), re.MULTILINE))
    assert names == {*public_names(), *(kind.__name__ for kind in error_classes())}
    assert all(hasattr(rlm_wasm, name) for name in public_names())


def test_what_a_types_name_stands_for_is_whole() -> None:
    """As code, and the same as the package has: not by what wrote the page."""
    said = dict(re.findall(r"^## (\w+)\n\n[^\n]+\n\n`([^`\n]*)`$", PAGE.read_text(), re.MULTILINE))
    things = {name: getattr(rlm_wasm, name) for name in public_names()}
    aliases = [
        name for name, thing in things.items() if not (inspect.isclass(thing) or inspect.isfunction(thing))
    ]
    assert aliases
    for name in aliases:
        home = vars(import_module(rlm_wasm._WHERE[name]))
        assert eval(said[name], dict(home)) == getattr(rlm_wasm, name)


def test_there_are_five_usages_of_at_most_six_lines_after_their_import() -> None:
    assert [title for title, _ in BLOCKS] == list(PRINTED)
    for _, block in BLOCKS:
        lines = [line for line in block.splitlines() if line.strip()]
        assert lines[0].startswith("from rlm_wasm import ")
        assert len(lines) <= 7
        assert not any(line.startswith(("import", "from")) for line in lines[1:])


@pytest.mark.guest
@pytest.mark.usefixtures("guest", "healthy_host")
def test_the_page_about_tools_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = (PAGE.parent / "tools.md").read_text()
    source, of_runs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(of_runs, "tools.md", "exec"), {"__name__": "tools"})
    source = source.replace('builtin("strict")', f'builtin("{POLICY_HERE}")')
    exec(compile(source, "tools.md", "exec"), {"__name__": "tools"})
    printed = capsys.readouterr().out.splitlines()
    (said,) = re.findall(r"^That prints (.+)\.$", text, re.MULTILINE)
    assert printed == re.findall(r"`([^`]+)`", said)


def test_the_limits_on_the_page_about_tools_are_those_of_strict() -> None:
    text = (PAGE.parent / "tools.md").read_text()
    (table,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    said = tomllib.loads(table)["tools"]
    strict = Policy.builtin("strict")
    assert strict.replace(tools=said).tools is not None
    assert strict.tools is not None
    limits = {name: number for name, number in said.items() if isinstance(number, int)}
    assert limits == {name: getattr(strict.tools, name) for name in limits}


@pytest.mark.guest
@pytest.mark.usefixtures("guest", "healthy_host")
@pytest.mark.parametrize(("title", "block"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_each_usage_runs_as_it_stands(
    title: str,
    block: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.toml").write_text(MODEL)
    # Where the machine refuses namespaces, under the policy that the README names for it.
    source = block.replace('builtin("strict")', f'builtin("{POLICY_HERE}")')
    exec(compile(source, title, "exec"), {})
    assert capsys.readouterr().out == PRINTED[title]
