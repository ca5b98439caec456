"""The committed file of what CPython's tests come to: it is complete, and a difference is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rlm_wasm.conformance.expectations import (
    UNKNOWN,
    Expected,
    compare,
    load_expectations,
    load_rules,
    observed,
    reason,
    render,
)
from rlm_wasm.conformance.outcomes import CRASH, FAIL, PASS, SKIP, ModuleVerdict, Verdict, total
from rlm_wasm.errors import ArtifactError
from rlm_wasm.guestbuild.manifest import guest_dir

RULES = ((re.compile("no such thing"), "it is not there"),)


def module(**tests: Verdict) -> ModuleVerdict:
    return ModuleVerdict("test_x", tests=dict(tests))


MIXED = {
    "a": Verdict(PASS),
    "b": Verdict(FAIL, "OSError: no such thing"),
    "c": Verdict(SKIP, "requires network"),
    "d": Verdict(CRASH, "GuestTrap: stack"),
}


def test_what_was_seen_is_what_is_expected_next_time(tmp_path: Path) -> None:
    seen = observed(module(**MIXED), None, RULES)
    assert seen == Expected(
        1, 1, {"b": "it is not there", "d": f"{UNKNOWN}ended the guest: GuestTrap: stack"}
    )
    path = tmp_path / "expected.toml"
    path.write_text(render({"test_x": seen, "numpy.fft.tests.test_x": seen}), encoding="utf-8")
    assert load_expectations(path) == {"test_x": seen, "numpy.fft.tests.test_x": seen}
    assert compare(module(**MIXED), seen) is None


def test_a_reason_that_somebody_wrote_is_kept_and_an_unknown_one_looked_up_again() -> None:
    before = Expected(1, 1, {"b": "written by hand", "d": f"{UNKNOWN}something"})
    seen = observed(module(**MIXED), before, ((re.compile("stack"), "deep"),))
    assert seen.failed == {"b": "written by hand", "d": "deep"}


def test_names_of_tests_are_kept_whatever_is_in_them(tmp_path: Path) -> None:
    names = ['a "quoted" \\ name', "zwölf 😀 \x7f", "line\nbreak", "dotted.name [with] = signs"]
    seen = Expected(0, 0, dict.fromkeys(names, "r"))
    path = tmp_path / "expected.toml"
    path.write_text(render({"test_x": seen}), encoding="utf-8")
    assert load_expectations(path) == {"test_x": seen}


@pytest.mark.parametrize(
    ("found", "worse", "better", "missing"),
    [
        ({"a": Verdict(FAIL, "x")}, ("a",), ("b",), 1),
        ({"a": Verdict(PASS), "b": Verdict(PASS)}, (), ("b",), 0),
        ({"b": Verdict(FAIL, "x")}, (), (), 1),
        ({"a": Verdict(CRASH, "x"), "b": Verdict(FAIL)}, ("a",), (), 1),
    ],
)
def test_a_difference_says_what_is_worse_and_what_is_better(
    found: dict[str, Verdict], worse: tuple[str, ...], better: tuple[str, ...], missing: int
) -> None:
    difference = compare(module(**found), Expected(1, 0, {"b": "known"}))
    assert difference is not None
    assert (difference.worse, difference.better, difference.missing) == (worse, better, missing)


def test_a_module_that_nobody_expects_to_skip_is_worse() -> None:
    skipped = ModuleVerdict("test_x", whole=Verdict(SKIP, "requires network"))
    assert compare(skipped, Expected(0, 0, {}, "requires network")) is None
    difference = compare(skipped, Expected(0, 0, {}))
    assert difference is not None
    assert difference.worse == ("test_x is skipped: requires network",)


def test_the_sum_counts_modules_that_fail_as_a_whole() -> None:
    broken = ModuleVerdict("test_y", whole=Verdict(FAIL, "ImportError"))
    summary = total([module(**MIXED), broken])
    assert (summary.passed, summary.failed, summary.crashed, summary.skipped) == (1, 2, 1, 1)
    assert summary.share == 0.25
    assert total([]).share == 0.0


def test_a_message_without_a_rule_is_an_unknown_reason() -> None:
    assert reason(Verdict(FAIL, "a new message"), RULES) == f"{UNKNOWN}a new message"


@pytest.mark.parametrize(
    "text", ["[test_x]\n", "test_x = 1\n", "[test_x]\npassed = 1\nskipped = 0\nmore = 1\n", "["]
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "expected.toml"
    path.write_text(text)
    with pytest.raises(ArtifactError, match=r"expected\.toml"):
        load_expectations(path)


def test_the_committed_rules_can_be_read() -> None:
    assert load_rules(guest_dir() / "conformance" / "reasons.toml")


def test_every_committed_reason_is_a_known_one() -> None:
    expected = load_expectations(guest_dir() / "conformance" / "expected-3.14.toml")
    unknown = [
        f"{test}: {said}"
        for each in expected.values()
        for test, said in each.failed.items()
        if said.startswith(UNKNOWN)
    ]
    assert unknown == []
