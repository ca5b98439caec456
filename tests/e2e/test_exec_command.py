"""`rlm-wasm exec` from outside: text, JSON, and the exit status of every outcome."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from rlm_wasm.artifacts.installed import find_guest
from rlm_wasm.policy.model import Policy
from tests.support.command_line import COMMAND, document, environment, rlm_wasm
from tests.support.machine_grade import POLICY_HERE
from tests.support.policy_file import write_policy
from tests.support.terminal import open_terminal, written

pytestmark = pytest.mark.guest


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A policy with limits that are met quickly."""
    return write_policy(
        tmp_path / "small.toml",
        sandbox={"memory_bytes_max": 128 << 20, "context_bytes_max": 1_000, "whole_context_chars_max": 100},
        cell={
            "fuel_max": 300_000_000,
            "requests_max": 50,
            "wall_ms_max": 3_000,
            "source_bytes_max": 10_000,
        },
        boundary={"batch_items_max": 50},
    )


def test_text_output_is_the_programs_own() -> None:
    ended = rlm_wasm("exec", "-", stdin="import sys\nprint('out')\nprint('err', file=sys.stderr)\n6 * 7")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"out\n42\n", b"err\n")


def test_an_exception_is_a_traceback_on_stderr() -> None:
    ended = rlm_wasm("exec", "-", stdin="print('before')\n1/0")
    assert (ended.returncode, ended.stdout) == (1, b"before\n")
    assert ended.stderr.decode().splitlines() == [
        "Traceback (most recent call last):",
        '  File "<cell 1>", line 2, in <module>',
        "    1/0",
        "ZeroDivisionError: division by zero",
    ]


@pytest.mark.parametrize(
    ("source", "outcome", "status"),
    [
        ("6 * 7", "completed", 0),
        ("1/0", "guest_exception", 1),
        ("import sys; sys.exit(3)", "guest_exception", 1),
        ("x = (", "guest_exception", 1),
        ("while True: pass", "fuel_exhausted", 3),
        ("'x' * 10**9", "memory_exceeded", 3),
        ("while True: print('x' * 1000)", "output_exceeded", 3),
        ("while True:\n try: llm_query('x')\n except QueryError: pass", "requests_exceeded", 3),
        ("import time; time.sleep(5)", "deadline_exceeded", 3),
        ("import os; os._exit(3)", "guest_trap", 4),
        ("import _rlm; _rlm.emit(9, b'x')", "boundary_violation", 4),
    ],
)
def test_each_outcome_has_its_word_and_its_status(
    policy: Path, source: str, outcome: str, status: int
) -> None:
    ended = rlm_wasm("exec", "--json", "--policy", policy, "-", stdin=source)
    found = document(ended)
    assert (found["outcome"], ended.returncode) == (outcome, status)
    assert ended.stderr == b""
    assert set(found) == {
        "outcome", "stdout", "stderr", "result", "fuel_used", "memory_peak_bytes", "wall_ms", "error",
        "lockdown", "session",
    }  # fmt: skip
    assert (found["session"] == "alive") == (status != 4)
    assert (found["error"] is None) == (outcome == "completed")
    if outcome in ("completed", "guest_exception"):
        assert found["session"] == "alive"
    if status == 3:
        section, _, key = found["error"]["key"].partition(".")
        assert found["error"]["limit"] == getattr(getattr(Policy.open(str(policy)), section), key)
    assert 0 < found["fuel_used"] <= 1_000_000_000
    assert found["memory_peak_bytes"] <= 128 << 20


def test_a_deadline_ends_a_loop_with_fuel_left(tmp_path: Path) -> None:
    path = write_policy(
        tmp_path / "p.toml", cell={"fuel_max": 10**12, "wall_ms_max": 300}, budget={"fuel_max": 10**13}
    )
    found = document(rlm_wasm("exec", "--json", "--policy", path, "-", stdin="while True: pass"))
    assert found["outcome"] == "deadline_exceeded"
    assert 250 <= found["wall_ms"] < 2_300  # it is asked to end a little before it has to


def test_json_holds_the_guests_exception() -> None:
    found = document(rlm_wasm("exec", "--json", "-", stdin="raise ValueError('ü \\ud800')"))
    assert found["error"]["type"] == "ValueError"
    assert found["error"]["message"].startswith("ü ")
    assert "Traceback" in found["error"]["traceback"]


def test_a_file_and_contexts_are_read(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("print(context, len(more))")
    (tmp_path / "a.txt").write_text("grüße")
    (tmp_path / "b.txt").write_text("xyz")
    ended = rlm_wasm(
        "exec",
        tmp_path / "program.py",
        "--context",
        tmp_path / "a.txt",
        "--context",
        f"more={tmp_path / 'b.txt'}",
    )
    assert (ended.returncode, ended.stdout.decode()) == (0, "grüße 3\n")


def test_a_program_that_begins_with_the_mark_of_utf8_runs(tmp_path: Path) -> None:
    (tmp_path / "marked.py").write_bytes(b"\xef\xbb\xbfprint('ok')\n")
    ended = rlm_wasm("exec", tmp_path / "marked.py")
    assert (ended.returncode, ended.stdout) == (0, b"ok\n")


def test_a_program_in_another_encoding_is_not_told_of_an_option_for_inputs(tmp_path: Path) -> None:
    ended = rlm_wasm("exec", _latin(tmp_path))
    assert ended.returncode == 2
    assert b"not UTF-8 text (byte 2)" in ended.stderr
    assert b"--bytes" not in ended.stderr


def test_an_empty_name_is_no_file_and_not_the_working_folder() -> None:
    ended = rlm_wasm("exec", "")
    assert (ended.returncode, ended.stderr) == (2, b"error: the name of a file is empty\n")


def test_bytes_contexts_are_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"\xff\x00")
    program = tmp_path / "p.py"
    program.write_text("context")
    ended = rlm_wasm("exec", program, "--bytes", "--context", tmp_path / "a.bin")
    assert ended.stdout == b"b'\\xff\\x00'\n"


def _big(path: Path) -> Path:
    (path / "big.gz").write_bytes(gzip.compress(bytes(range(256)) * 5))  # packed, so it is read whole
    return path / "big.gz"


def _latin(path: Path) -> Path:
    (path / "latin").write_bytes(b"gr\xfc\xdfe")
    return path / "latin"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path / "none", "cannot read"),
        (lambda path: path, "sandbox.context_bytes_max"),  # all that is in the folder
        (_latin, "not UTF-8 text (byte 2)"),
        (_big, "sandbox.context_bytes_max"),
    ],
)
def test_a_context_that_cannot_be_used_is_a_usage_error(
    tmp_path: Path, policy: Path, make, says: str
) -> None:
    program = tmp_path / "p.py"
    program.write_text("1")
    ended = rlm_wasm("exec", "--policy", policy, program, "--context", make(tmp_path))
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert says in ended.stderr.decode()
    assert "Traceback" not in ended.stderr.decode()


@pytest.mark.parametrize(
    "arguments",
    [
        ["exec"],
        ["exec", "none.py"],
        ["exec", "--policy", "no-such-policy", "-"],
        ["exec", "--policy", "/dev/null", "-"],
        ["exec", "-", "--context", "a=-", "--context", "a=-"],
        ["exec", "-", "--context", "-"],
        ["exec", "-", "--context", "None=/dev/null"],
        ["run", "question"],
        ["run", "--policy", "strict", "--model", "script:none.toml", "question"],
        ["run", "--policy", "strict", "--model", "nothing", "question"],
        ["nothing"],
    ],
)
def test_a_wrong_command_line_is_status_2_and_no_traceback(arguments: list[str]) -> None:
    ended = rlm_wasm(*arguments, OPENAI_API_KEY="")
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == b""
    assert ended.stderr
    assert b"Traceback" not in ended.stderr


def test_a_program_over_the_cap_is_status_2(policy: Path) -> None:
    ended = rlm_wasm("exec", "--policy", policy, "-", stdin="#" * 10_001)
    assert ended.returncode == 2
    assert b"10000 bytes" in ended.stderr


def test_a_machine_without_a_guest_says_how_to_build_one(tmp_path: Path) -> None:
    ended = rlm_wasm("exec", "-", stdin="1", RLM_WASM_GUEST="", RLM_WASM_CACHE=str(tmp_path))
    assert ended.returncode == 2
    assert b"rlm-wasm guest build" in ended.stderr
    script = tmp_path / "m.toml"
    script.write_text("[[reply]]\nrole = 'any'\ntext = '''```repl\n1\n```'''\n")
    run = rlm_wasm(
        "run",
        "--policy",
        POLICY_HERE,
        "--model",
        f"script:{script}",
        "?",
        RLM_WASM_GUEST="",
        RLM_WASM_CACHE=str(tmp_path),
    )
    assert run.returncode == 2, run.stderr
    assert b"rlm-wasm guest build" in run.stderr


@pytest.mark.threat("T-151")
def test_a_guest_of_other_sources_is_not_run(tmp_path: Path) -> None:
    """As after an upgrade: there is a guest, whole and this machine's, and it is not of these sources."""
    other = tmp_path / "guests" / "of-another-version"
    other.mkdir(mode=0o700, parents=True)
    for name in ("guest.json", "guest.json.mac"):
        shutil.copy(find_guest().folder / name, other / name)
    own = {"RLM_WASM_GUEST": "", "RLM_WASM_CACHE": str(tmp_path)}
    ended = rlm_wasm("exec", "-", stdin="1", **own)
    assert ended.returncode == 2
    assert b"no guest is built from the sources in" in ended.stderr
    assert b"rlm-wasm guest build" in ended.stderr
    assert rlm_wasm("guest", "info", **own).returncode == 0  # which describes whatever there is


@pytest.mark.threat("T-021")
def test_control_characters_reach_a_pipe_and_no_terminal() -> None:
    source = "print('\\x1b[2J\\x07red\\u202e\\tend')\n'\\x1b[31m'.join('ab')\nprint('\\x9b1m')"
    assert b"\x1b[2J\x07red" in rlm_wasm("exec", "-", stdin=source).stdout
    ours, theirs = open_terminal()
    process = subprocess.Popen(
        [*COMMAND, "exec", "-"], env=environment(), stdin=subprocess.PIPE, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    assert process.stdin is not None
    process.stdin.write(source.encode())
    process.stdin.close()
    shown = written(ours)
    assert process.wait(60) == 0
    text = shown.decode()
    assert "\ufffd[2J\ufffdred\ufffd\tend" in text
    assert not set(text) & {"\x1b", "\x07", "\x9b", "\u202e"}


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    with subprocess.Popen(
        [*COMMAND, "exec", "-"],
        env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write(b"print('x' * 500_000)")
        process.stdin.close()
        errors = process.stderr.read()
        assert process.wait(60) == 1
    assert b"Traceback" not in errors
    assert b"internal error" not in errors


def test_help_and_version_do_not_load_an_engine() -> None:
    for arguments in (["--version"], ["--help"], ["exec", "--help"], ["run", "--help"]):
        program = (
            "import sys\nfrom rlm_wasm.cli.main import invoke\n"
            f"status = invoke({arguments!r})\n"
            "heavy = {'wasmtime', 'httpx', 'anyio'} & set(sys.modules)\n"
            "print(heavy, file=sys.stderr)\nsys.exit(status)"
        )
        ended = subprocess.run(
            [COMMAND[0], "-c", program], env=environment(), capture_output=True, text=True, timeout=60
        )
        assert (ended.returncode, ended.stderr) == (0, "set()\n")
        assert ended.stdout


def test_the_default_policy_exists() -> None:
    assert Policy.open("standard").cell.fuel_max > 0


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_standard_streams_that_are_closed_are_no_bug(closed: tuple[int, ...]) -> None:
    redirections = " ".join(f"{number}>&-" for number in closed)
    source = "'-'" if 0 in closed else "/dev/fd/0"
    script = f'printf "6 * 7" | (exec "$@" exec {source} {redirections})'
    ended = subprocess.run(
        ["sh", "-c", script, "sh", *COMMAND], env=environment(), capture_output=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    if closed == (2,):
        assert ended.stdout == b"42\n"


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_full_disk_under_stdout_is_told_and_no_bug(options: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [*COMMAND, "exec", *options, "-"], input=b"6 * 7", stdout=full, stderr=subprocess.PIPE,
            env=environment(), timeout=60,
        )  # fmt: skip
    assert ended.returncode == 2
    assert b"No space left on device" in ended.stderr


def test_a_file_larger_than_a_guest_may_hold_stays_where_it_is(policy: Path, tmp_path: Path) -> None:
    path = tmp_path / "big.log"
    path.write_text("".join(f"line {number}\n" for number in range(1_000)))
    source = "type(context).__name__, context.find('line 999'), context[:6], open('/inputs/big.log').read(6)"
    ended = rlm_wasm("exec", "-", "--policy", str(policy), "--context", str(path), stdin=source)
    found = path.read_text().find("line 999")
    assert ended.stdout.decode() == f"{('LazyText', found, 'line 0', 'line 0')}\n", ended.stderr


def test_an_input_is_a_file_of_its_name(policy: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n")
    source = "import os\nos.listdir('/inputs'), open('/inputs/x.csv').read() == rows"
    ended = rlm_wasm("exec", "-", "--policy", str(policy), "--context", f"rows={path}", stdin=source)
    assert ended.stdout == b"(['x.csv'], True)\n", ended.stderr
