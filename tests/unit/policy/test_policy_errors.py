"""A bad policy is refused with one error that names every bad line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from rlm_wasm.errors import PolicyError
from rlm_wasm.policy.document import DOCUMENT_BYTES_MAX, LINE_CHARS_MAX
from rlm_wasm.policy.model import Policy

FUEL = "fuel_max = 60_000_000_000"
NESTING = "nesting_max = 32"


def test_negative_limit_is_refused_at_its_line(edited, problems_of, line_of):
    assert problems_of(edited((FUEL, "fuel_max = -5"))) == [
        f"p.toml:{line_of(FUEL)}: cell.fuel_max: must be greater than 0 (got -5)"
    ]


def test_zero_limit_is_refused(edited, problems_of, line_of):
    assert problems_of(edited((NESTING, "nesting_max = 0"))) == [
        f"p.toml:{line_of(NESTING)}: boundary.nesting_max: must be greater than 0 (got 0)"
    ]


def test_absent_limit_is_refused_at_its_table(edited, problems_of, line_of):
    """No limit has a default: leaving one out is an error, not a guess."""
    assert problems_of(edited((NESTING, ""))) == [
        f"p.toml:{line_of('[boundary]')}: boundary.nesting_max: is missing; no limit or grant has a default"
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (NESTING, 'nesting_max = "32"', "must be an integer (got a string)"),
        (NESTING, "nesting_max = 32.0", "must be an integer (got 32.0)"),
        (NESTING, "nesting_max = true", "must be an integer (got true)"),
        (NESTING, "nesting_max = inf", "must be an integer (got inf)"),
        (NESTING, "nesting_max = -inf", "must be an integer (got -inf)"),
        (NESTING, "nesting_max = nan", "must be an integer (got nan)"),
        (NESTING, "nesting_max = [32]", "must be an integer (got an array)"),
        (NESTING, "nesting_max = {}", "must be an integer (got a table)"),
        (NESTING, "nesting_max = 1979-05-27", "must be an integer (got a date or time)"),
        ("texts = false", "texts = 0", "must be true or false (got 0)"),
        ("texts = false", 'texts = "no"', "must be true or false (got a string)"),
        ('clock = "virtual"', 'clock = "fast"', "must be 'virtual' or 'real' (got 'fast')"),
        ('clock = "virtual"', "clock = 1", "must be 'virtual' or 'real' (got 1)"),
        ("depth_max = 1", "depth_max = 17", "must be at most 16 (got 17)"),
        ("events_max = 20_000", "events_max = 1", "must be at least 16 (got 1)"),
        (
            "context_bytes_max = 200_000_000",
            "context_bytes_max = 4_294_967_296",
            "must be at most 4294901760",
        ),
        ("seed = 0", "seed = 9_223_372_036_854_775_808", "must be less than 9223372036854775808"),
        (
            FUEL,
            "fuel_max = 0x" + "f" * 3000,
            "must be at most 10000000000000000 (got an integer of 12000 bits)",
        ),
    ],
)
def test_wrong_value_is_refused_at_its_line(edited, problems_of, line_of, old, new, message):
    [problem] = problems_of(edited((old, new)))
    place, key, rest = problem.split(": ", 2)
    assert place == f"p.toml:{line_of(old)}"
    assert key.endswith("." + old.split(" ")[0])
    assert rest.startswith(message)


def test_misspelt_key_is_told_once_with_what_was_meant(edited, problems_of, line_of):
    old = "stdout_bytes_max = 1_048_576"
    assert problems_of(edited((old, "stdout_byte_max = 1_048_576"))) == [
        f"p.toml:{line_of(old)}: cell.stdout_byte_max: unknown key; did you mean `stdout_bytes_max`?"
    ]


def test_a_key_of_an_earlier_version_is_told_with_its_present_name(edited, problems_of, line_of):
    old = 'snapshot_key_env = ""'
    assert problems_of(edited((old, 'image_key_env = ""'))) == [
        f"p.toml:{line_of(old)}: sandbox.image_key_env: this key is called `snapshot_key_env` now"
    ]


def test_misspelt_table_is_told_once_with_what_was_meant(edited, problems_of, line_of):
    assert problems_of(edited(("[events]", "[event]"))) == [
        f"p.toml:{line_of('[events]')}: event: unknown table; did you mean `events`?"
    ]


def test_misspelt_price_key_is_told_once_with_what_was_meant(edited, problems_of, line_of):
    old = "output_microdollars_per_mtok = 2_000_000"
    assert problems_of(edited((old, "output_microdollar_per_mtok = 2_000_000"))) == [
        f'p.toml:{line_of(old)}: models.prices."openai:gpt-5-mini".output_microdollar_per_mtok: '
        "unknown key; did you mean `output_microdollars_per_mtok`?"
    ]


def test_unknown_key_unlike_any_other_is_refused_without_its_value(edited, problems_of, line_of):
    """A key pasted under an unknown name must not end up in a log."""
    [problem] = problems_of(edited(("[events]", '[events]\nzzz = "sk-live-1234567890"')))
    assert problem == f"p.toml:{line_of('[events]') + 1}: events.zzz: unknown key"


def test_pasted_api_key_is_never_quoted(edited, problems_of):
    secret = "sk-live-1234567890abcdef"
    problems = problems_of(
        edited(
            ('api_key_env = "OPENAI_API_KEY"', f'api_key_env = "{secret}"'),
            ('base_url = "https://api.openai.com/v1"', f'base_url = "{secret}"'),
            ('root = "openai:gpt-5"', f'root = "{secret}"'),
            ('clock = "virtual"', f'clock = "{secret}"'),
            ("texts = false", f'texts = "{secret}"'),
        )
    )
    assert len(problems) == 4  # the URL's form is a rule, and rules come after the keys
    assert secret not in "\n".join(problems)


def test_password_in_the_url_is_refused_and_never_quoted(edited, problems_of):
    [problem] = problems_of(edited(("https://api.openai.com", "https://me:hunter22@api.openai.com")))
    assert "must not hold a user name or password" in problem
    assert "hunter22" not in problem


def test_all_problems_are_listed_in_the_order_of_the_file(edited, problems_of):
    problems = problems_of(
        edited(
            ("texts = false", "texts = 3"),
            (NESTING, "nesting_max = 0"),
            ("[sandbox]", "[sandbox]\nzzz = 1"),
            ("seed = 0", ""),
        )
    )
    assert [problem.split(": ")[1] for problem in problems] == [
        "sandbox.seed",
        "sandbox.zzz",
        "boundary.nesting_max",
        "events.texts",
    ]


def test_list_of_problems_has_an_end(edited, problems_of):
    keys = "\n".join(f"k{number} = 1" for number in range(500))
    problems = problems_of(edited(("[events]", f"[events]\n{keys}")))
    assert len(problems) == 51
    assert problems[-1] == "p.toml: and 450 more problems"


def test_empty_file_lacks_every_table(tmp_path, problems_of):
    path = tmp_path / "p.toml"
    path.write_text("")
    problems = problems_of(path)
    assert problems[0] == "p.toml: sandbox: the table [sandbox] is missing"
    assert len(problems) == 11


def test_table_that_is_a_number_is_refused(tmp_path, problems_of):
    path = tmp_path / "p.toml"
    path.write_text("sandbox = 3\n")
    assert "p.toml:1: sandbox: must be a table (got 3)" in problems_of(path)


def test_isolation_that_does_not_exist_is_refused(edited, problems_of, line_of):
    [problem] = problems_of(edited(('isolation = "session"', 'isolation = "none"')))
    assert problem == (
        f"p.toml:{line_of('isolation = ')}: sandbox.isolation: must be "
        "'inline', 'shared', 'tenant' or 'session' (got 'none')"
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 0", "seed = ", "Invalid value"),
        ("[sandbox]", "[sandbox", "Expected ']'"),
        ("seed = 0", "seed 0", "Expected '='"),
    ],
)
def test_syntax_error_is_told_with_its_line(edited, problems_of, line_of, old, new, message):
    [problem] = problems_of(edited((old, new)))
    assert problem.startswith(f"p.toml:{line_of(old)}: is not valid TOML: {message}")


def test_key_given_twice_is_a_syntax_error(edited, problems_of, line_of):
    [problem] = problems_of(edited(("seed = 0", "seed = 0\nseed = 1")))
    assert problem == f"p.toml:{line_of('seed = 0') + 1}: is not valid TOML: Cannot overwrite a value"


def test_unclosed_string_at_the_end_is_a_syntax_error(tmp_path, problems_of):
    path = tmp_path / "p.toml"
    path.write_text('a = 1\nb = """\n')
    [problem] = problems_of(path)
    assert problem.startswith("p.toml:3: is not valid TOML")


def test_number_with_too_many_digits_is_refused(tmp_path, problems_of):
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        path = tmp_path / "p.toml"
        path.write_text("a = " + "9" * 700)
        assert problems_of(path) == ["p.toml: holds a number with too many digits"]
    finally:
        sys.set_int_max_str_digits(limit)


@pytest.mark.parametrize("text", ["a = " + "9" * 5000, ".".join("a" * 30_000) + " = 1"])
def test_line_that_would_cost_the_parser_seconds_is_refused_unparsed(tmp_path, problems_of, text):
    path = tmp_path / "p.toml"
    path.write_text("# first\n" + text)
    assert problems_of(path) == [f"p.toml:2: is longer than {LINE_CHARS_MAX} characters"]


def test_deep_nesting_is_refused(tmp_path, problems_of):
    path = tmp_path / "p.toml"
    path.write_text("a = " + "[\n" * 5000 + "]\n" * 5000)
    assert problems_of(path) == ["p.toml: is nested too deeply"]


def test_file_that_is_not_utf8_is_refused_at_its_line(tmp_path, problems_of):
    path = tmp_path / "p.toml"
    path.write_bytes(b"# caf\n# \xe9\n")
    assert problems_of(path) == ["p.toml:2: is not UTF-8 text (byte 0xe9)"]


def test_the_mark_that_editors_begin_a_file_with_is_none_of_it(tmp_path, problems_of):
    path = tmp_path / "p.toml"
    path.write_text('extends = "strict"\n[budget]\ncalls = 3\n', encoding="utf-8-sig")
    assert problems_of(path) == ["p.toml:3: budget.calls: unknown key; did you mean `calls_max`?"]


def test_file_of_100_mb_is_refused_after_reading_a_little(tmp_path, problems_of):
    path = tmp_path / "p.toml"
    with path.open("wb") as file:
        file.truncate(100_000_000)  # sparse
    assert problems_of(path) == [
        f"p.toml: is larger than {DOCUMENT_BYTES_MAX} bytes; a policy is a small file"
    ]


def test_endless_device_is_refused():
    with pytest.raises(PolicyError, match=r"^/dev/zero: is larger than"):
        Policy.load("/dev/zero")


def test_missing_file_is_named(tmp_path, problems_of):
    assert problems_of(tmp_path / "none.toml") == ["none.toml: cannot be read: No such file or directory"]


def test_folder_is_not_a_policy(tmp_path):
    with pytest.raises(PolicyError, match="cannot be read: Is a directory"):
        Policy.load(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable_file_is_named(edited, problems_of):
    path = edited()
    path.chmod(0)
    assert problems_of(path) == ["p.toml: cannot be read: Permission denied"]


def test_file_that_fails_while_being_read_is_named():
    with pytest.raises(PolicyError, match=r"^/proc/self/mem: cannot be read: Input/output error$"):
        Policy.load("/proc/self/mem")


def test_path_with_a_nul_is_refused():
    with pytest.raises(PolicyError, match="not a usable path"):
        Policy.load(Path("a\0b"))


def test_terminal_escapes_in_the_file_do_not_reach_the_terminal(edited, problems_of):
    problems = problems_of(
        edited(("[events]", '[events]\n"\\u001b[31mred\\u202e" = 1'), ('"virtual"', '"\\u001b[2J"'))
    )
    assert all(problem.isprintable() for problem in problems)
    assert 'events."\\u001B[31mred\\u202E": unknown key' in problems[1]


def test_windows_line_ends_are_read(edited, problems_of, line_of):
    path = edited((FUEL, "fuel_max = -5"))
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    [problem] = problems_of(path)
    assert problem.startswith(f"p.toml:{line_of(FUEL)}: cell.fuel_max")


def test_error_of_a_mapping_holds_no_input_in_its_chain():
    """The library's own error carries the whole input; it must not travel along."""
    with pytest.raises(PolicyError) as caught:
        Policy.from_mapping({"api_key": "sk-live-1234567890"})
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
