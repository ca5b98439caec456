"""`rlm-wasm run --out`: what the model's code left in /out, whatever became of the answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command_line import rlm_wasm
from tests.support.policy_file import write_policy

pytestmark = pytest.mark.guest

WRITES = "import os; os.makedirs('/out/d', exist_ok=True); open('/out/d/report.csv', 'w').write('a,b')"


def answer(folder: Path, *blocks: str, more: tuple[str, ...] = ()) -> tuple[int, str, str]:
    model = folder / "model.toml"
    turns = enumerate(blocks, 1)
    model.write_text(
        "".join(
            f"[[reply]]\nrole = 'root'\nturn = {turn}\ntext = '''\n```repl\n{block}\n```'''\n"
            for turn, block in turns
        )
    )
    policy = write_policy(folder / "policy.toml", events={"texts": True})
    ended = rlm_wasm(
        "run", "?", "--policy", str(policy), "--model", f"script:{model}", "--out", str(folder / "out"), *more
    )
    return ended.returncode, ended.stdout.decode(), ended.stderr.decode()


def test_the_answer_and_the_files_both_come_out(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    code, shown, told = answer(tmp_path, WRITES, "FINAL('done')", more=("--events", str(events)))
    assert (code, shown) == (0, "done\n")
    assert f"1 files copied into {tmp_path / 'out'}" in told
    assert (tmp_path / "out" / "d" / "report.csv").read_text() == "a,b"
    # Copying is nothing that the run did: it is repeated from its log without it.
    assert rlm_wasm("replay", str(events)).returncode == 0


def test_a_run_that_gives_no_answer_leaves_its_files(tmp_path: Path) -> None:
    code, _, _ = answer(tmp_path, WRITES, *["1/0"] * 3)
    assert code != 0
    assert (tmp_path / "out" / "d" / "report.csv").read_text() == "a,b"


def test_what_cannot_be_written_costs_no_answer(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "d").write_text("no folder")
    code, shown, told = answer(tmp_path, WRITES, "FINAL('done')")
    assert (code, shown) == (2, "done\n")
    assert "1 not copied: cannot write '/out/d/report.csv'" in told
