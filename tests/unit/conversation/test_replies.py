"""What a model's reply asks for: its blocks, its thoughts, and the work that reading it takes."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rlm_wasm.conversation.replies import BLOCKS_MAX, ParsedReply, parse_reply
from rlm_wasm.thoughts import without_thoughts_before

THEN = "Then I know."


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
        ("````repl\nx\n```", "x"),
        ("```repl\nx\n    ```", "x"),
        ("~~~repl\nx\n~~~", "x"),
        ("~~~~repl\nx = ~~~1\n~~~\ny\n~~~~", "x = ~~~1\n~~~\ny"),
        ("```repl\nx = '''\n~~~\n'''\n```", "x = '''\n~~~\n'''"),
        ("```repl\nx = '```'  # ```\ny = 1```\nThen.", "x = '```'  # ```\ny = 1"),
    ],
)
def test_fences_as_models_write_them(text: str, source: str) -> None:
    assert blocks(text) == (source,)


@pytest.mark.parametrize(
    ("opener", "strict", "lenient"),
    [
        ('```python title="end.py"', False, True),
        ("```python title=`end`", False, True),
        ('```python title="repl"', False, True),
        ("```python {.numberLines}", False, True),
        ("```python{1,3}", False, True),
        ("```{python}", False, True),
        ("```{python, echo=FALSE}", False, True),
        ("``` {.python}", False, True),
        ("```{#end .python}", False, True),
        ("```python:end.py", False, True),
        ("```python3.14", False, True),
        ("```iPython", False, True),
        ("So: ```python", False, True),
        ("```repl one more", True, True),
        ("```python repl", True, True),
        ("```python-repl", True, True),
        ("```{repl}", True, True),
        ("```repl {.numberLines}", True, True),
        ("So: ```repl", True, True),
        ("```json schema", False, False),
        ("```{r}", False, False),
        ("```{.r #python}", False, False),
        ("```text python", False, False),
        ("```replica", False, False),
        ("```pythonic", False, False),
        ("So: ```json", False, False),
        ("So: ```", False, False),
    ],
)
def test_a_fence_may_say_more_than_its_language(opener: str, strict: bool, lenient: bool) -> None:
    """What stands in it is no text, whether it runs or not, and its end begins nothing."""
    for close in ("```", "````", "```  ", "   ```"):
        text = f"{opener}\nFINAL(1)\n{close}\n{THEN}"
        for is_lenient, runs in ((False, strict), (True, lenient)):
            parsed = parse_reply(text, is_lenient)
            assert parsed.blocks == (("FINAL(1)",) if runs else ())
            assert (parsed.final, parsed.final_var, parsed.unclosed) == (None, None, False)
            assert parsed.prose.removeprefix("So:").strip() == THEN


@pytest.mark.parametrize(
    ("info", "strict", "lenient"),
    [
        ("repl", True, True),
        ("python", False, True),
        ("{python}", False, True),
        ("", False, True),
        ("text", False, False),
    ],
)
def test_tildes_are_a_fence(info: str, strict: bool, lenient: bool) -> None:
    for is_lenient, runs in ((False, strict), (True, lenient)):
        parsed = parse_reply(f"~~~{info}\nFINAL(1)\n~~~\n{THEN}", is_lenient)
        assert parsed.blocks == (("FINAL(1)",) if runs else ())
        assert (parsed.final, parsed.prose, parsed.unclosed) == (None, THEN, False)
    assert parse_reply("~~~text\n```repl\nFINAL(1)\n```\n~~~", True).blocks == ()


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("<code>\nFINAL(1)\n</code>", "FINAL(1)"),
        ("<repl>\nFINAL(1)\n</repl>", "FINAL(1)"),
        ("<python>\nFINAL(1)\n</python>", "FINAL(1)"),
        ("<Python>\nFINAL(1)\n</PYTHON>", "FINAL(1)"),
        ("  <repl>\n  FINAL(1)\n  </repl>", "FINAL(1)"),
        ("<code>FINAL(1)</code>", "FINAL(1)"),
        ("<code>x = 1\nFINAL(1)</code>", "x = 1\nFINAL(1)"),
        ("<code># FINAL(1)</code>", "# FINAL(1)"),
        ('<code language="python">\nFINAL(1)\n</code>', "FINAL(1)"),
        ('<code class="language-py">\nFINAL(1)\n</code>', "FINAL(1)"),
        ('<code language="bash">\nFINAL(1)\n</code>', None),
        ('<repl>\ns = """\n</repl>\n"""\n</repl>', 's = """\n</repl>\n"""'),
        ("<repl>\ns = '</repl>'\n</repl>", "s = '</repl>'"),
        ("<repl>\n```python\nFINAL(1)\n```\n</repl>", "FINAL(1)"),
    ],
)
def test_tags_are_fences_that_run_only_if_lenient(text: str, source: str | None) -> None:
    parsed = parse_reply(text, True)
    assert (parsed.blocks, parsed.final, parsed.unclosed) == ((source,) if source else (), None, False)
    parsed = parse_reply(text, False)
    assert (parsed.blocks, parsed.final, parsed.unclosed) == ((), None, False)


@pytest.mark.parametrize(
    "call",
    [
        '<tool_call>{"name": "repl", "arguments": {"code": "FINAL(x)"}}</tool_call>',
        '<tool_call>\n{"source": "x",\n "y": "FINAL(x)"}\n</tool_call>',
        "<execute>\nx = 1\nFINAL_VAR(x)\n</execute>",
        "<function=repl><parameter=code>FINAL(x)</parameter></function>",
        '<invoke name="repl">\n<parameter name="code">FINAL(x)</parameter>\n</invoke>',
        "<function_calls>\nFINAL(x)\n</function_calls>",
    ],
)
@pytest.mark.parametrize("lenient", [False, True])
def test_a_call_of_a_tool_is_neither_code_nor_answer(call: str, lenient: bool) -> None:
    parsed = parse_reply(f"I look.\n{call}\n{THEN}", lenient, ended=True)
    assert (parsed.blocks, parsed.final, parsed.final_var) == ((), None, None)
    assert parse_reply(f"{call}\nFINAL(42)", lenient).final == "42"


@pytest.mark.parametrize(
    "call",
    [
        "<|python_tag|>",
        "[TOOL_CALLS]",
        "<|tool_calls_section_begin|>",
        "<\uff5ctool\u2581calls\u2581begin\uff5c>",
    ],
)
def test_the_rest_of_a_reply_is_a_call_where_one_is_marked_so(call: str) -> None:
    parsed = parse_reply(f"I look.\n{call}x = 1\nFINAL(x)", True, ended=True)
    assert (parsed.blocks, parsed.final, parsed.prose) == ((), None, "I look.")


@pytest.mark.parametrize(
    "text", ["<code>x</code> is 42.\nFINAL(42)", "A <code> tag\nFINAL(42)", "<code> is a tag\nFINAL(42)"]
)
def test_a_tag_that_is_spoken_of_is_none(text: str) -> None:
    parsed = parse_reply(text, True)
    assert (parsed.blocks, parsed.final) == ((), "42")


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("> ```repl\n> x = 1\n> if x:\n>     y\n> ```", "x = 1\nif x:\n    y"),
        (">```repl\n>x = 1\n>```", "x = 1"),
        ("> > ```repl\n> > x\n> > ```", "x"),
        ("  > ```repl\n  > x\n  > ```\n  > ```json\n  > {}\n  > ```", "x"),
        ("> ```repl\n> s = '''\n> ```\n> '''\n> ```", "s = '''\n```\n'''"),
        ("> ```repl\n> x\n\n> y\n> ```", "x\n\ny"),
        ("> Look:\n> ```repl\n> s = x\\\n>  > 3\n> ```", "s = x\\\n > 3"),
        ("> 1. ```repl\n>    x\n>    ```", "x"),
        # one that its quote ends, and one that only begins like a quote's
        ("> ```repl\n> x\nSo I think.", "x"),
        ("> ```repl\nx = 1\n```", "x = 1"),
    ],
)
def test_a_block_in_a_quote_runs_without_its_marks(text: str, source: str) -> None:
    for then in ("", f"\n{THEN}"):
        parsed = parse_reply(text + then, False)
        assert (parsed.blocks, parsed.final, parsed.unclosed) == ((source,), None, False)
    assert parse_reply(text.replace("repl", "text") + "\n> FINAL(42)", False).blocks == ()


def test_blocks_in_quotes_end_where_the_next_begins() -> None:
    assert blocks("> ```repl\n> a\n> ```repl\n> b\n> ```\n```repl\nc\n```") == ("a", "b", "c")
    assert blocks("> ```repl\n> a\n```repl\nb\n```") == ("a", "b")
    parsed = parse_reply("> ```json\n> FINAL(1)\n> ```\n> FINAL(2)", False)
    assert (parsed.blocks, parsed.final) == ((), "2")
    assert parse_reply("> ```repl\n> for x in", False).unclosed


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("- ```repl\n  if x:\n      y\n  ```", "if x:\n    y"),
        ("1. Look: ```repl\n   x = 1\n   y\n   ```", "x = 1\ny"),
        ("10. ```repl\n    x\n    ```", "x"),
        ("```repl\n    x\n    y\n```", "x\ny"),
        ("```repl\n  # first\n  x\n```", "# first\nx"),
        ("```repl\n  # first\ndef f():\n  return 1\n```", "  # first\ndef f():\n  return 1"),
        ("   ```repl\ndef f():\n  return 1\n   ```", "def f():\n  return 1"),
    ],
)
def test_a_program_has_no_indentation_of_its_own(text: str, source: str) -> None:
    assert blocks(text) == (source,)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("```repl x = 1\nprint(x)\n```", "x = 1\nprint(x)"),
        ("```repl print(context[:300])\n```", "print(context[:300])"),
        ("```repl import re, json\nre\n```", "import re, json\nre"),
        ("```Python repl from re import *\nsub\n```", "from re import *\nsub"),
        ("```repl for x in y:\n    x\n```", "for x in y:\n    x"),
        ("```repl n=len(context)\n```", "n=len(context)"),
        ("```repl s = '''\n```\n'''\n```", "s = '''\n```\n'''"),
        ("~~~repl x = 1\n~~~", "x = 1"),
        ("I look: ```repl x = 1\nprint(x)\n```", "x = 1\nprint(x)"),
        ("```repl FINAL(42)```", "FINAL(42)"),
        ("```repl print(1) ```", "print(1) "),
    ],
)
def test_code_in_the_line_of_its_fence_is_none_of_its_info(text: str, source: str) -> None:
    parsed = parse_reply(f"{text}\n{THEN}", False)
    assert (parsed.blocks, parsed.final, parsed.prose.removeprefix("I look:").strip()) == (
        (source,),
        None,
        THEN,
    )


@pytest.mark.parametrize(
    "info",
    ["title='a = 1'", "one more (2)", "import of the data", "#1 (first)", "start=5", "- step 1: look", "x=1"],
)
def test_an_info_string_is_no_code(info: str) -> None:
    assert blocks(f"```repl {info}\nx\n```") == ("x",)


@pytest.mark.parametrize(
    "text", ["I use ```repl print(x)``` for it.", "```repl print(x)``` is for it.", "```repl```"]
)
def test_a_block_of_one_line_that_is_spoken_of_is_none(text: str) -> None:
    assert blocks(text) == ()


@pytest.mark.parametrize(
    "mark",
    [
        "<|im_end|>",
        "<|eot_id|>\n",
        "</s>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
        "\n<|im_end|><|endoftext|>",
    ],
)
def test_what_ends_a_models_turn_is_none_of_its_reply(mark: str) -> None:
    assert [each.rstrip() for each in parse_reply(f"```repl\nx = 1{mark}", False, ended=True).blocks] == [
        "x = 1"
    ]
    assert blocks(f"```repl\nx\n```{mark}") == ("x",)
    assert parse_reply(f"FINAL_VAR: town{mark}", False).final_var == "town"
    assert parse_reply(f"It is 17.{mark}", False).prose == "It is 17."


@pytest.mark.parametrize("text", ["s = '<|im_end|>'", "# <|im_end|>\nx"])
def test_what_ends_a_turn_may_stand_in_code(text: str) -> None:
    assert blocks(f"```repl\n{text}\n```") == (text,)
    assert parse_reply("It is <s>old</s>", False).prose == "It is <s>old</s>"


@pytest.mark.parametrize("tag", ["json", "python"])
def test_a_fence_within_a_prompt_that_the_code_builds_is_part_of_the_code(tag: str) -> None:
    source = f'prompt = """Answer like this:\n```{tag}\n[1]\n```\n"""\nprint(llm_query(prompt))'
    assert blocks(f"```repl\n{source}\n```") == (source,)
    assert blocks(f"```repl\n{source}\n```", lenient=True) == (source,)


def test_an_indented_fence_within_a_function_is_part_of_the_code() -> None:
    source = 'def f():\n    p = """\n    ```\n    """'
    assert blocks(f"```repl\n{source}\n```") == (source,)


@pytest.mark.parametrize(
    "source",
    [
        'note = """\n```\nx = 1\n```\n"""\nFINAL(note)',
        "note = '''\n```\nx = 1\n'''\nFINAL(note)",
        'note = """\n```repl\nFINAL(1)\n```\n"""',
        'note = """```repl\nFINAL(1)\n```"""',
        'note = f"""\n```json\n{x}\n```\nFINAL(x)\n"""',
        "note = (\"\"\"\n```\n\"\"\",\n'''\n~~~\n```\n''')",
        "# it's\nnote = '''\n```\n'''",
        "s = 'it\\'s \"\"\"'\nnote = '''\n``` and so on\n'''",
        's = \'a\\\nb"""\'\nnote = """\n```\n"""',
        'note = """\\"""\n```\n"""',
    ],
)
@pytest.mark.parametrize("lenient", [False, True])
def test_fences_in_the_strings_of_a_block_are_its_own(source: str, lenient: bool) -> None:
    parsed = parse_reply(f"First:\n```repl\n{source}\n```\nThen:\n```repl\ny\n```\n", lenient)
    assert (parsed.blocks, parsed.final, parsed.final_var) == ((source, "y"), None, None)
    # In a fence that does not run, they are no answer either.
    parsed = parse_reply(f"```python\n{source}\n```", False)
    assert (parsed.blocks, parsed.final, parsed.prose) == ((), None, "")


def test_a_string_that_never_ends_is_the_fault_of_its_block_alone() -> None:
    text = '```repl\nnote = """abc\n```\nIt is (not) known.\n```repl\ny = """d"""\n```\nFINAL(1)'
    assert blocks(text) == ('note = """abc', 'y = """d"""')
    assert parse_reply(text, False).final == "1"


@pytest.mark.threat("T-231")
def test_a_block_is_read_on_only_past_so_many_fences() -> None:
    few, many = ("s = '''\n" + "```\n" * count + "'''" for count in (60, 600))
    assert blocks(f"```repl\n{few}\n```") == (few,)
    assert blocks(f"```repl\n{many}\n```")[0] == "s = '''"


def test_a_block_that_was_not_closed_before_the_next_still_runs() -> None:
    assert blocks("```repl\na\n```repl\nb\n```") == ("a", "b")
    assert blocks("```\nsome output\n```repl\nb\n```") == ("b",)
    assert blocks("```repl\na\n```python\nb\n```", lenient=True) == ("a", "b")


@pytest.mark.parametrize(
    "text", ["```\nAnd so I think.\n```repl\nx\n```", "```repl\nx\n```\n```\nAnd so I think."]
)
@pytest.mark.parametrize("lenient", [False, True])
def test_a_fence_that_may_be_the_end_of_another_opens_no_block(text: str, lenient: bool) -> None:
    assert parse_reply(text, lenient, ended=True).blocks == ("x",)


def test_half_a_program_does_not_run() -> None:
    parsed = parse_reply("```repl\na\n```\n```repl\nfor x in", False)
    assert parsed.blocks == ("a",)
    assert parsed.unclosed
    assert not parse_reply("```json\n{", False).unclosed


@pytest.mark.parametrize(
    ("source", "whole"),
    [
        ("n = len(context.split())\nFINAL(n)\n", True),
        ("def f():\n    return 1", True),
        ("x = (1,\n  2)", True),
        ("s = '''\n```\n'''", True),
        ("x = (1,", False),
        ("s = '''abc", False),
        ("x = 1 + \\", False),
        ("", False),
    ],
)
@pytest.mark.parametrize(("opener", "lenient"), [("```repl", False), ("~~~python", True), ("<repl>", True)])
def test_a_whole_program_at_the_end_of_a_reply_runs_if_the_model_had_ended(
    source: str, whole: bool, opener: str, lenient: bool
) -> None:
    text = f"I count.\n{opener}\n{source}"
    parsed = parse_reply(text, lenient, ended=True)
    assert parsed.blocks == ((source,) if whole else ())
    assert parsed.unclosed != whole
    parsed = parse_reply(text, lenient)
    assert (parsed.blocks, parsed.unclosed) == ((), True)


def test_blocks_are_bounded() -> None:
    parsed = parse_reply("```repl\nx\n```\n" * (BLOCKS_MAX + 3), False)
    assert len(parsed.blocks) == BLOCKS_MAX
    assert parsed.blocks_dropped == 3


@pytest.mark.parametrize(
    ("text", "prose"),
    [
        ("It is 42.", "It is 42."),
        ("It is\n\n  42.\n", "It is\n\n  42."),
        ("```repl\nx = 1\n```", ""),
        ("```python\nx = 1\n```", ""),
        ("```\nx = 1", ""),
        ("Look:\n```repl\nx = 1\n```\nThen I know.", "Look:\nThen I know."),
        ("Look:\n```repl\nx = 1\n``` Then I know.", "Look:\n Then I know."),
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


@pytest.mark.parametrize("name", ["think", "thinking", "reasoning", "Think", "seed:think", "analysis"])
@pytest.mark.parametrize("inner", ["FINAL(a guess)", "FINAL_VAR(a)", "```repl\nx\n```", "```repl\nx", "hm"])
@pytest.mark.parametrize("lenient", [False, True])
def test_a_thought_is_neither_code_nor_answer_wherever_it_stands(
    name: str, inner: str, lenient: bool
) -> None:
    opened, closed = f"<{name}>", f"</{name}>"
    for text in (
        f"{opened}\n{inner}\n{closed}\nThen:\n```repl\ny\n```",
        f"{opened}{inner}\n{closed}Then:\n```repl\ny\n```",
        f"Then:{opened}\n{inner}\n{closed}\n```repl\ny\n```",
        f"Then:\n```repl\ny\n```\n{opened}\n{inner}\n{closed}",
        f"{inner}\n{closed}\nThen:\n```repl\ny\n```",  # its beginning is in the prompt
        f"Then:\n```repl\ny\n```\n{opened}\n{inner}",  # and this one has no end
    ):
        parsed = parse_reply(text, lenient, ended=True)
        assert (parsed.blocks, parsed.final, parsed.final_var, parsed.unclosed) == (("y",), None, None, False)
        assert parsed.prose == "Then:"
    parsed = parse_reply(f"{opened}\n{inner}", lenient, ended=True)
    assert (parsed.blocks, parsed.final, parsed.final_var, parsed.prose) == ((), None, None, "")
    assert parsed.thinks_on


@pytest.mark.parametrize(
    "text",
    [
        "[THINK]FINAL(1)[/THINK]FINAL(2)",
        "\u25c1think\u25b7FINAL(1)\u25c1/think\u25b7FINAL(2)",
        "<|begin_of_thought|>FINAL(1)\n<|end_of_thought|>\nFINAL(2)",
        "FINAL(1)<|end_of_thought|>\nFINAL(2)",
        "<|channel|>analysis<|message|>FINAL(1)<|end|><|start|>assistant<|channel|>final<|message|>FINAL(2)",
        "<|channel|>commentary to=python code<|message|>FINAL(1)<|call|>\nFINAL(2)",
        '<think budget="9">\nFINAL(1)</think >FINAL(2)',
        "<think>a</think><think>FINAL(1)</think>FINAL(2)",
        "I leave `<think>` out.\nFINAL(2)",
        "A <think> here\nFINAL(2)",
        "FINAL(<think>1)</think>2)",
    ],
)
def test_what_is_behind_a_thought_counts(text: str) -> None:
    assert parse_reply(text, False).final == "2"


@pytest.mark.parametrize(
    "source", ["s = '<think>'", "s = '''\n</think>\n'''", "s = '</think>'", "s = '''\n<think>\n'''"]
)
def test_a_thought_that_code_speaks_of_is_none(source: str) -> None:
    assert blocks(f"```text\n<think>\n</think>\n```\n```repl\n{source}\n```\nIt is in `</think>`.") == (
        source,
    )
    assert parse_reply("FINAL(the tag is </think>)", False).final == "the tag is </think>"


@pytest.mark.parametrize(
    ("answer", "rest"),
    [
        ("<think>\nhm\n</think>\n\nOslo", "Oslo"),
        ("<think></think>Oslo\n", "Oslo\n"),
        ("<think>a</think>\n<think>b</think> Oslo", "Oslo"),
        ("It may be Bergen.\n</think>\nOslo", "Oslo"),
        ("[THINK]a[/THINK]Oslo", "Oslo"),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>Oslo", "Oslo"),
        # no thoughts, or nothing else
        ("Oslo", "Oslo"),
        ("  Oslo ", "  Oslo "),
        ("Oslo <think>or</think> Bergen", "Oslo <think>or</think> Bergen"),
        ("The tag is </think>, and", "The tag is </think>, and"),
        ("<think>hm", "<think>hm"),
        ("<think>hm</think>\n", "<think>hm</think>\n"),
        ("", ""),
    ],
)
def test_an_answer_is_what_stands_behind_the_thoughts_before_it(answer: str, rest: str) -> None:
    assert without_thoughts_before(answer) == rest


pieces = [
    "```", "````", "```repl\n", "```json\n", "~~~", "<code>", "</code>", "<think>", "</think>", "\n", " ",
    "#", "FINAL(", "FINAL_VAR(", ")", "x", "python", "\r", "\t", "\0", "\u2028",
    ">", "\n> ", "> ```repl\n> ", "```repl x = 1", "<|im_end|>", "- ```repl\n", "answer=",
]  # fmt: skip
quotes = ["'", '"', "'''", '"""', "\\"]


@pytest.mark.threat("T-231")
@given(
    st.lists(st.sampled_from(pieces + quotes), max_size=60).map("".join) | st.text(max_size=200),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=400)
def test_every_text_is_a_reply(text: str, lenient: bool, ended: bool) -> None:
    parsed = parse_reply(text, lenient, ended=ended)
    assert len(parsed.blocks) <= BLOCKS_MAX
    assert parsed.final is None or parsed.final_var is None
    for block in parsed.blocks:
        # Indentation is taken away, and what stood around a line: nothing is added.
        assert all(line.lstrip(" \t") in text for line in block.split("\n"))
    if not lenient and "repl" not in text:
        assert not parsed.blocks


@given(st.lists(st.text("abc =()\n'\"#\\", max_size=40), max_size=5), st.sampled_from(["```", "~~~~"]))
def test_code_without_fences_comes_out_as_it_went_in(sources: list[str], marks: str) -> None:
    assume(not any("'''" in source or '"""' in source for source in sources))
    # Where its first line is indented, but for comments, all of it is.
    assume(not any(re.match(r"(?: *(?:#.*)?\n)* +[^# \n]", source) for source in sources))
    text = "\n".join(f"Block:\n{marks}repl\n{source}\n{marks}" for source in sources)
    assert blocks(text) == tuple(sources)


@given(st.lists(st.sampled_from(pieces), max_size=20).map("".join), st.booleans())
def test_whatever_a_string_of_a_block_holds_is_the_string_s(held: str, lenient: bool) -> None:
    source = f"note = '''\n{held}\n'''"
    parsed = parse_reply(f"Block:\n```repl\n{source}\n```\nThen I look.", lenient)
    assert (parsed.blocks, parsed.final, parsed.prose) == ((source,), None, "Block:\nThen I look.")
    # Taken out and put into a reply again, it comes out the same.
    again = "".join(f"```repl\n{block}\n```\n" for block in parsed.blocks)
    assert parse_reply(again, lenient).blocks == parsed.blocks


@given(
    st.sampled_from(["```", "~~~"]),
    st.sampled_from(["", "text", "json", "{r}", "bash x", "python"]),
    st.text("FINAL_VR()x \n", max_size=60),
    st.booleans(),
)
def test_nothing_in_a_fence_is_a_finish(marks: str, info: str, held: str, lenient: bool) -> None:
    parsed = parse_reply(f"{marks}{info}\nFINAL(1)\nFINAL_VAR(x)\n{held}\n{marks}\nend", lenient)
    assert (parsed.final, parsed.final_var, parsed.prose) == (None, None, "end")


UNITS = [
    "```repl\n", "```json\n", "\n", " ", "`", "```", "```a", "```a b\n", "x: ```\n", "~~~\n", ")\n",
    "FINAL(\n", "FINAL_VAR(\n", "FINAL(x)\n", "FINAL(x\n", "**FINAL(\n", "FINAL('", "FINAL('a ",
    "FINAL_VAR: _", "\\'", "<think>", "</think>", "x <think>\n", "FINAL(</think>", "<code>\n",
    "<code>\n</think>\n", "<code></code>", "```repl\n'''\n```\n", "```repl\n'''\n```\n```json\n",
    "> ```repl\n", "> > ```json\n", "- ```repl\n", "```repl x = 1\n",
    "<|im_end|>", "> ```repl\n> '''\n> ```\n",
    '```repl\n"""\n```\n```repl\nx\n```\n', "<invoke>", "\u25c1think\u25b7", "<|channel|>analysis",
]  # fmt: skip


@pytest.mark.threat("T-231")
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("head", ["", "```repl\n'''\n", "```repl\n'''\n```\n", "FINAL("])
def test_a_hostile_reply_takes_work_in_proportion_to_its_length(unit: str, head: str) -> None:
    """Counted in lines of Python run, which no machine's speed changes."""
    small, large = (_work(head + unit * repeats) for repeats in (200, 1_600))
    assert large <= 10 * small + 2_000


@pytest.mark.threat("T-231")
@pytest.mark.parametrize("unit", ["> ```repl\n> '''\n> ```\n", "> ```repl\n", "> ```json\n"])
def test_blocks_that_only_the_end_of_their_quote_ends_are_not_read_again_each(unit: str) -> None:
    small, large = (_work(unit * repeats + "the end") for repeats in (200, 1_600))
    assert large <= 10 * small + 2_000


@pytest.mark.threat("T-231")
@pytest.mark.parametrize(
    "head",
    [
        "", "```", "x ```", "```repl", "```repl x", "```repl\n", "```repl\n'''\n", "FINAL(", "**FINAL(",
        "FINAL_VAR:", "<code>", "```repl for x", "> ```repl\n> ",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "unit",
    [" ", "`", "``` ", "a", "(", "\t", "\r", "'", "'a ", "\\'", "_", "*", "<think", "<think>", "</think>",
     '"code": "', "> ", " in ", "so ", "[TOOL_CALLS]", "<function=", "<|channel|>analysis"],
)  # fmt: skip
def test_a_hostile_line_of_a_megabyte_is_read_at_once(head: str, unit: str) -> None:
    """Inside the regular expressions lines cannot be counted; quadratic time would be an hour here."""
    start = time.perf_counter()
    parse_reply(head + unit * (2**20 // len(unit)) + "!", True, ended=True)
    assert time.perf_counter() - start < 30


@pytest.mark.threat("T-231")
def test_thoughts_that_are_spoken_of_a_million_times_are_not_copied_each_time() -> None:
    start = time.perf_counter()
    assert parse_reply("x" + "<think>" * 2**20, True).prose
    assert time.perf_counter() - start < 60


def _work(text: str) -> int:
    lines = 0

    def count(*_: object) -> Callable[..., object]:
        nonlocal lines
        lines += 1
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        parse_reply(text, True, ended=True)
    finally:
        sys.settrace(before)
    return lines
