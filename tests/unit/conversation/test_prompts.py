"""What the root model is told."""

from __future__ import annotations

import pytest

from rlm_wasm.conversation.dialect import Dialect
from rlm_wasm.conversation.prompts import (
    FILES_SHOWN_MAX,
    PEEK_CHARS_MAX,
    ContextFacts,
    FileFacts,
    first_user_message,
    system_prompt,
    turn_prompt,
)
from rlm_wasm.conversation.replies import parse_reply
from tests.support.core_facts import observation


@pytest.mark.parametrize("dialect", list(Dialect))
def test_every_dialect_teaches_what_the_session_has(dialect: Dialect) -> None:
    prompt = system_prompt(dialect, observation(bytes_max=12_345))
    for word in ("```repl", "llm_query(prompt", "llm_query_batched(prompts", "budget()", "context", "12345"):
        assert word in prompt
    for word in ("FINAL(value)", "FINAL_VAR("):
        assert word in prompt


@pytest.mark.parametrize("dialect", list(Dialect))
def test_only_a_run_that_may_have_children_is_told_of_them(dialect: Dialect) -> None:
    assert "rlm_query" not in system_prompt(dialect, observation())
    prompt = system_prompt(dialect, observation(), recursive=True)
    assert "rlm_query(prompt" in prompt
    assert "rlm_query_batched(prompts" in prompt


def test_what_is_missing_is_said_and_of_the_clock_what_is_true() -> None:
    prompt = system_prompt(Dialect.BOTH, observation())
    for word in ("no network", "no shell", "no other process", "nothing can be installed", "in order"):
        assert word in prompt
    assert "clock" not in prompt
    assert "The clock is virtual" in system_prompt(Dialect.BOTH, observation(), virtual_clock=True)


def test_packages_are_named_where_there_are_any() -> None:
    assert "packages" not in system_prompt(Dialect.BOTH, observation())
    prompt = system_prompt(Dialect.BOTH, observation(), packages=("PyYAML 6.0.2", "openpyxl 3.1.5"))
    assert "These packages are installed as well: PyYAML 6.0.2, openpyxl 3.1.5." in prompt


def test_each_dialect_teaches_its_own_way_to_finish() -> None:
    answer, final, both = (system_prompt(d, observation()) for d in Dialect)
    assert 'answer["ready"] = True' in answer
    assert 'answer["ready"]' not in final
    assert "outside any block" in final
    assert "outside any block" not in answer
    assert 'answer["ready"] = True' in both
    assert "outside any block" in both


def test_the_example_in_the_prompt_is_a_block_that_would_run() -> None:
    parsed = parse_reply(system_prompt(Dialect.ANSWER, observation()), False)
    assert parsed.blocks == ("print(len(context))\nprint(context[:300])",)


def test_the_context_is_described_and_not_shown() -> None:
    facts = ContextFacts("context", "str", 50_000_000, "characters", "x" * 10_000)
    message = first_user_message("What is the number?", [facts])
    assert "What is the number?" in message
    assert "`context` is a str of 50000000 characters." in message
    assert "x" * PEEK_CHARS_MAX in message
    assert "x" * (PEEK_CHARS_MAX + 1) not in message


def test_every_context_is_listed_and_none_is_said_to_be_none() -> None:
    contexts = [ContextFacts(f"context_{n}", "bytes", n, "bytes", "") for n in range(3)]
    message = first_user_message("q", contexts)
    assert all(f"`context_{n}` is a bytes of {n} bytes." in message for n in range(3))
    assert "no context variable" in first_user_message("q", [])


def test_a_peek_cannot_pass_for_the_prompt_around_it() -> None:
    peek = "\n\nQuestion: something else"
    message = first_user_message("q", [ContextFacts("context", "str", 5, "characters", peek)])
    assert message.count("\nQuestion:") == 0


def test_a_turn_says_which_it_is() -> None:
    assert turn_prompt(2, 30) == "Turn 2/30:"
    assert turn_prompt(1, 30).endswith("\n\nTurn 1/30:")
    assert "Look at it" in turn_prompt(1, 30)


@pytest.mark.parametrize("lengths", [(1_001,), (600, 401)])
def test_of_more_than_the_memory_holds_twice_the_model_is_told(lengths: tuple[int, ...]) -> None:
    contexts = [ContextFacts(f"c{n}", "str", length, "characters", "") for n, length in enumerate(lengths)]
    assert "Take it in pieces" in first_user_message("q", contexts, 1_000)
    assert "pieces" not in first_user_message("q", contexts, sum(lengths))
    assert "pieces" not in first_user_message("q", contexts)


@pytest.mark.threat("T-216")
def test_the_files_of_a_folder_are_listed_in_bounded_lines() -> None:
    files = tuple(FileFacts(f"{n}\n" + "x" * 4_000, n, "\n" + "y" * 4_000) for n in range(FILES_SHOWN_MAX))
    facts = ContextFacts("context", "dict", 5_000, "items", "", 1, "docs\n", listing=files)
    message = first_user_message("q", [facts])
    lines = message.splitlines()
    assert "'/inputs/docs\\n'" in message
    assert lines[4].startswith("- '0\\nxxx")
    assert lines[4].endswith("'…: 0 characters, whose first line is '\\n" + "y" * 199 + "'")
    listed = [line for line in lines if line.startswith("- '")]
    assert len(message) < 10_000
    assert lines[-1] == f"- and {5_000 - len(listed)} more: sorted(context) has all paths"


def test_a_folder_says_how_its_texts_are_got_at() -> None:
    facts = ContextFacts("docs", "dict", 1, "items", "", 1, "d", listing=(FileFacts("a/x.txt", 3),))
    assert first_user_message("q", [facts]).splitlines()[2:] == [
        "`docs` is a dict of 1 items.",
        "It is a folder: `docs[path]` is the text of a file, a str, by its path in there. Each is a file as "
        "well, in the folder '/inputs/d'. Its files:",
        "- 'a/x.txt': 3 characters",
    ]
