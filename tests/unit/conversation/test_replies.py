"""What a model's reply asks for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.conversation.replies import BLOCKS_MAX, ParsedReply, parse_reply


def blocks(text: str, lenient: bool = False) -> tuple[str, ...]:
    return parse_reply(text, lenient).blocks


def test_every_repl_block_runs_in_order() -> None:
    text = "First:\n```repl\na = 1\nb = 2\n```\nthen\n```repl\nprint(a)\n```\nbye"
    assert parse_reply(text, False) == ParsedReply(
        ("a = 1\nb = 2", "print(a)"), None, None, prose="First:\nthen\nbye"
    )


@pytest.mark.parametrize("tag", ["python", "py", "Python", "py3", ""])
def test_other_fences_run_only_if_lenient(tag: str) -> None:
    text = f"```{tag}\nx = 1\n```"
    assert blocks(text) == ()
    assert blocks(text, lenient=True) == ("x = 1",)


@pytest.mark.parametrize("tag", ["json", "text", "bash", "output", "c++"])
def test_a_fence_of_another_language_never_runs(tag: str) -> None:
    assert blocks(f"```{tag}\nx = 1\n```", lenient=True) == ()


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("```repl \nx\n```", "x"),
        ("``` repl\nx\n```", "x"),
        ("```REPL\nx\n```", "x"),
        ("```repl\r\nx\r\ny\r\n```\r\n", "x\r\ny"),
        ("Look: ```repl\nx\n```", "x"),
        ("````repl\nx = '''\n```\n'''\n````", "x = '''\n```\n'''"),
        ("1. do\n   ```repl\n   if x:\n       y\n   ```", "if x:\n    y"),
        ("```repl\n```", ""),
        ("```repl\nx\n``` and so on", "x"),
    ],
)
def test_fences_as_models_write_them(text: str, source: str) -> None:
    assert blocks(text) == (source,)


@pytest.mark.parametrize("tag", ["json", "python"])
def test_a_fence_within_a_prompt_that_the_code_builds_is_part_of_the_code(tag: str) -> None:
    source = f'prompt = """Answer like this:\n```{tag}\n[1]\n```\n"""\nprint(llm_query(prompt))'
    assert blocks(f"```repl\n{source}\n```") == (source,)
    assert blocks(f"```repl\n{source}\n```", lenient=True) == (source,)


def test_an_indented_fence_within_a_function_is_part_of_the_code() -> None:
    source = 'def f():\n    p = """\n    ```\n    """'
    assert blocks(f"```repl\n{source}\n```") == (source,)


def test_a_block_that_was_not_closed_before_the_next_still_runs() -> None:
    assert blocks("```repl\na\n```repl\nb\n```") == ("a", "b")
    assert blocks("```\nsome output\n```repl\nb\n```") == ("b",)


def test_half_a_program_does_not_run() -> None:
    parsed = parse_reply("```repl\na\n```\n```repl\nfor x in", False)
    assert parsed.blocks == ("a",)
    assert parsed.unclosed
    assert not parse_reply("```json\n{", False).unclosed


def test_blocks_are_bounded() -> None:
    parsed = parse_reply("```repl\nx\n```\n" * (BLOCKS_MAX + 3), False)
    assert len(parsed.blocks) == BLOCKS_MAX
    assert parsed.blocks_dropped == 3


@pytest.mark.parametrize(
    ("text", "final"),
    [
        ("FINAL(42)", "42"),
        ("So:\n  FINAL(f(x) and (y))  \nDone.", "f(x) and (y)"),
        ("FINAL(two\nlines)", "two\nlines"),
        ("FINAL(a)\nFINAL(b)", "a"),
        ("FINAL(see\n```python\nx = 1\n```\nabove)", "see\n```python\nx = 1\n```\nabove"),
        ("The answer is FINAL(42)", None),
        ("FINAL(42) is my answer", None),
        ("FINAL (42)", None),
        ("FINAL(42", None),
        ("```repl\nFINAL(42)\n```", None),
        ("```python\nFINAL(42)\n```", None),
        ("FINAL()", ""),
    ],
)
def test_a_final_answer_as_text(text: str, final: str | None) -> None:
    assert parse_reply(text, False).final == final


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("FINAL_VAR(result)", "result"),
        ("  FINAL_VAR('result') ", "result"),
        ('FINAL_VAR("result")', "result"),
        ("FINAL_VAR(\n  result\n)", "result"),
        ("FINAL_VAR(a) FINAL_VAR(b)", "a"),
        ("I will use FINAL_VAR(result)", None),
        ("FINAL_VAR(result", None),
        ("```repl\nFINAL_VAR(result)\n```", None),
    ],
)
def test_a_final_variable_as_text(text: str, name: str | None) -> None:
    assert parse_reply(text, False).final_var == name


def test_a_final_variable_comes_before_a_final_answer() -> None:
    parsed = parse_reply("FINAL(x)\nFINAL_VAR(y)", False)
    assert (parsed.final, parsed.final_var) == (None, "y")


@pytest.mark.parametrize(
    ("opener", "strict", "lenient"),
    [
        ('```python title="end.py"', False, True),
        ("```python {.numberLines}", False, True),
        ("```python{1,3}", False, True),
        ("```repl one more", True, True),
        ("```{python}", False, False),
        ("``` {.python}", False, False),
        ("```python:end.py", False, False),
        ("```json schema", False, False),
    ],
)
def test_a_fence_may_say_more_than_its_language(opener: str, strict: bool, lenient: bool) -> None:
    """What stands in it is no text, whether it runs or not, and its end begins nothing."""
    text = f"{opener}\nFINAL(1)\n```\nThen I know."
    for is_lenient, runs in ((False, strict), (True, lenient)):
        parsed = parse_reply(text, is_lenient)
        assert parsed.blocks == (("FINAL(1)",) if runs else ())
        assert (parsed.final, parsed.prose, parsed.unclosed) == (None, "Then I know.", False)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("FINAL(42)\nFINAL(43)", "42"),
        ("FINAL(a\nb)\n\nFINAL(43)", "a\nb"),
        ("**FINAL(42)**", "42"),
        ("`FINAL(42)`", "42"),
        ("**FINAL(**42**)**", "**42**"),
        ('FINAL("Ann")', "Ann"),
        ("FINAL('Ann')", "Ann"),
        ('FINAL("Ann\'s")', "Ann's"),
        ('FINAL("a" or "b")', '"a" or "b"'),
        ('FINAL(")', '"'),
    ],
)
def test_a_final_answer_is_what_was_meant(text: str, answer: str) -> None:
    assert parse_reply(text, False).final == answer


@pytest.mark.parametrize(
    ("text", "prose"),
    [
        ("It is 42.", "It is 42."),
        ("It is\n\n  42.\n", "It is\n\n  42."),
        ("```repl\nx = 1\n```", ""),
        ("```python\nx = 1\n```", ""),
        ("```\nx = 1", ""),
        ("Look:\n```repl\nx = 1\n```\nThen I know.", "Look:\nThen I know."),
        ("FINAL_VAR(x)", ""),
        ("FINAL(draft)\n```repl\nx\n```", ""),
        ("print(context[:300])", ""),
        ("import re\nfind(\n  'a',\n)\ncontext[:300]", ""),
        ("x = 5\nis what I found.", "x = 5\nis what I found."),
        ("import re\nfor m in re.findall('a', context):\n    print(m)\n# done\nd['n'] = len(m)", ""),
        ("from os import path\nrows = [\n    1,\n]\nif rows:\n    pass\nelse:\n    pass", ""),
        ('answer["content"] = 5\nanswer["ready"] = True', ""),
        ("from what I saw it is 42.", "from what I saw it is 42."),
        ("x == y, it seems", "x == y, it seems"),
        ("<think>\nFINAL(a guess)\n</think>\nI look first.", "I look first."),
        ("<think>no end\nFINAL(a guess)", ""),
        ("", ""),
    ],
)
def test_prose_is_what_a_reply_says_beside_its_code(text: str, prose: str) -> None:
    assert parse_reply(text, False).prose == prose


def test_thoughts_ask_for_nothing() -> None:
    parsed = parse_reply("<think>\nFINAL(a guess)\n```repl\nx\n```\n</think>\n```repl\ny\n```", False)
    assert (parsed.blocks, parsed.final) == (("y",), None)
    assert blocks("```repl\ns = '<think>'\n```\n</think>") == ("s = '<think>'",)


pieces = st.sampled_from(
    [
        "```",
        "````",
        "```repl\n",
        "```json\n",
        "\n",
        " ",
        "FINAL(",
        "FINAL_VAR(",
        ")",
        "x",
        "\r",
        "\t",
        "\u2028",
    ]
)


@given(st.lists(pieces, max_size=60).map("".join) | st.text(max_size=200), st.booleans())
def test_every_text_is_a_reply(text: str, lenient: bool) -> None:
    parsed = parse_reply(text, lenient)
    assert len(parsed.blocks) <= BLOCKS_MAX
    assert not (parsed.final and parsed.final_var)
    for block in parsed.blocks:
        assert len(block) <= len(text)


@given(st.lists(st.text("abc =()\n'", max_size=40), max_size=5))
def test_code_without_backticks_comes_out_as_it_went_in(sources: list[str]) -> None:
    text = "\n".join(f"Block:\n```repl\n{source}\n```" for source in sources)
    assert blocks(text) == tuple(sources)


@pytest.mark.parametrize(
    "unit",
    [
        "```repl\n",
        "```json\n",
        "\n",
        " ",
        "FINAL(\n",
        "FINAL_VAR(\n",
        "`",
        "```",
        "```a",
        "FINAL(x)\n",
        ")\n",
        "```a b\n",
        "**FINAL(\n",
        "FINAL(x\n",
    ],
)
def test_a_hostile_reply_takes_work_in_proportion_to_its_length(unit: str) -> None:
    """Counted in lines of Python run, which no machine's speed changes."""
    small, large = (_work(unit * repeats) for repeats in (500, 4_000))
    assert large <= 10 * small + 1_000


@pytest.mark.parametrize("head", ["", "```", "x ```", "```repl", "```repl x", "FINAL(", "**FINAL("])
@pytest.mark.parametrize("unit", [" ", "`", "``` ", "a", "(", "\t", "\r"])
def test_a_hostile_line_of_a_megabyte_is_read_at_once(head: str, unit: str) -> None:
    """Inside the regular expressions lines cannot be counted; quadratic time would be an hour here."""
    start = time.perf_counter()
    parse_reply(head + unit * (2**20 // len(unit)) + "!", True)
    assert time.perf_counter() - start < 5


def _work(text: str) -> int:
    lines = 0

    def count(*_: object) -> Callable[..., object]:
        nonlocal lines
        lines += 1
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        parse_reply(text, True)
    finally:
        sys.settrace(before)
    return lines
