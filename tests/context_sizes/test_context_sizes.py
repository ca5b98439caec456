"""What a policy promises of contexts fits its memory: the page is true, and no cost is above the rule's."""

from __future__ import annotations

import pytest

from rlm_wasm.api.sandbox import Sandbox
from rlm_wasm.policy.model import Policy
from rlm_wasm.policy.rules import BYTES_PER_CHAR, GUEST_BYTES
from rlm_wasm.vm.loaded_guest import LoadedGuest
from tests.context_sizes.page import PAGE, page, told
from tests.context_sizes.work import LANGUAGES, OPERATIONS, measure, text_of
from tests.support.machine_grade import strict_here

CHARS = 1 << 20


@pytest.mark.guest
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_page_tells_what_work_on_a_whole_text_takes(name: str, language: str) -> None:
    operation = OPERATIONS[name]
    cost = measure(operation, text_of(LANGUAGES[language], operation.form, CHARS))
    page = told()[name, language]
    # Measured on a text eight times as long: in a small one it weighs more how far lists and arenas are full.
    assert page.memory_bytes - 2 <= cost.memory_bytes <= page.memory_bytes + 4
    assert cost.fuel <= 1.2 * page.fuel


def test_nothing_on_the_page_takes_more_than_the_rule_allows() -> None:
    figures = told()
    assert set(figures) == {(name, language) for name in OPERATIONS for language in LANGUAGES}
    assert max(cost.memory_bytes for cost in figures.values()) == BYTES_PER_CHAR
    assert page(figures) == PAGE.read_text(encoding="utf-8")


@pytest.mark.guest
def test_the_guest_itself_takes_no_more_than_the_rule_allows(guest: LoadedGuest) -> None:
    assert guest.facts.image_bytes <= GUEST_BYTES


@pytest.mark.parametrize("name", ["strict", "container", "standard"])
def test_fuel_for_the_dearest_work_is_in_a_cell(name: str) -> None:
    policy = Policy.builtin(name)
    assert max(cost.fuel for cost in told().values()) <= (
        policy.cell.fuel_max / policy.sandbox.whole_context_chars_max
    )


@pytest.mark.guest
@pytest.mark.slow
def test_strict_lowers_a_text_of_the_full_size_with_an_emoji() -> None:
    """The dearest of the table, at the size that the policy promises, under the policy as it is."""
    policy = strict_here()
    text = text_of(LANGUAGES["one emoji"], "prose", policy.sandbox.whole_context_chars_max)
    ended = Sandbox(policy).exec_sync("made = context.lower()\nlen(made)", context=text)
    assert (ended.outcome, ended.result) == ("completed", str(len(text)))
