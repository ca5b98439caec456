"""A finish as text: FINAL(answer) and FINAL_VAR(name) outside of code."""

from __future__ import annotations

import pytest

from rlm_wasm.conversation.replies import parse_reply


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("FINAL(42)", "42"),
        ("So:\n  FINAL(f(x) and (y))  \nDone.", "f(x) and (y)"),
        ("FINAL(two\nlines)", "two\nlines"),
        ("FINAL(see\n```python\nx = 1)\n```\nabove)", "see\n```python\nx = 1)\n```\nabove"),
        # the first of two
        ("FINAL(a)\nFINAL(b)", "a"),
        ("FINAL(42) and FINAL(43)", "42"),
        ("FINAL(a\nb)\n\nFINAL(43)", "a\nb"),
        ("FINAL(f(1) + (2)) + FINAL(3)", "f(1) + (2)"),
        ("FINAL(...)\nFINAL(42)", "42"),
        ("FINAL()\nFINAL(42)", "42"),
        ("FINAL(1) when I know\nFINAL(42)", "42"),
        ("I would end with FINAL(a guess).\nFINAL(42)", "42"),
        # strings
        ('FINAL("Ann")', "Ann"),
        ("FINAL('Ann')", "Ann"),
        ('FINAL("Ann\'s")', "Ann's"),
        ('FINAL("a" or "b")', '"a" or "b"'),
        ('FINAL(")', '"'),
        ('FINAL("a) b")', "a) b"),
        ("FINAL('a) (b')", "a) (b"),
        ('FINAL(the ")" sign)', 'the ")" sign'),
        ("FINAL(It's 42 (I think))", "It's 42 (I think)"),
        ("FINAL(the dogs' bowl (theirs))", "the dogs' bowl (theirs)"),
        ("FINAL(5' 6\" (tall))", "5' 6\" (tall)"),
        ("FINAL(it smiles :( )", "it smiles :("),
        ('FINAL("""a\n(b""")', "a\n(b"),
        ('FINAL("a \\"b\\"\\nc")', 'a "b"\nc'),
        ("FINAL(r'a\\nb')", "a\\nb"),
        # what stands around it
        ("The answer is FINAL(42)", "42"),
        ("The answer is FINAL(42).", "42"),
        ("FINAL(42) is my answer", "42"),
        ("My final answer: **FINAL(42)**.", "42"),
        ("I looked. FINAL(42)", "42"),
        ("I can answer now: FINAL(42)", "42"),
        ("FINAL (42)", "42"),
        ("FINAL(42).", "42"),
        ("**FINAL(42)**", "42"),
        ("**FINAL(42).**", "42"),
        ("***FINAL(42)***", "42"),
        ("__FINAL(42)__", "42"),
        ("**FINAL(**42**)**", "**42**"),
        ("`FINAL(42)`", "42"),
        ("Answer: `FINAL(42)`", "42"),
        ("- FINAL(42)", "42"),
        ("> FINAL(42)", "42"),
        ("## FINAL(42)", "42"),
        ("x = 6 * 7\nFINAL(42)", "42"),
        ("n = 2\nFINAL(Oslo)", "Oslo"),
        ("So n = 2.\nFINAL(n)", "n"),
        ("for the record:\nFINAL(Oslo)", "Oslo"),
        ("After reading all ten files, the answer is FINAL(42)", "42"),
        ("Ann never left Oslo, so the final answer: FINAL(Oslo)", "Oslo"),
        ("I could not find another, and therefore FINAL(Oslo)", "Oslo"),
        ("The month is May: FINAL(May)", "May"),
        # what it was found by, and what follows from it
        ("I must conclude: FINAL(3)", "3"),
        ("I must therefore conclude that the answer is FINAL(3)", "3"),
        ("I can confirm that: FINAL(3)", "3"),
        ("I can answer: FINAL(3)", "3"),
        ("Using the data above, FINAL(3)", "3"),
        ("As noted before, FINAL(3)", "3"),
        ("So, as you would expect: FINAL(3)", "3"),
        ("I read it all. As I can see from the list, **FINAL(3)**", "3"),
        ("Based on what could be found, FINAL(3)", "3"),
        ("By my count, FINAL(3)", "3"),
        # an argument by its name
        ('FINAL(answer="Bern")', "Bern"),
        ("FINAL(answer = 42)", "42"),
        ("FINAL(value='''a\nb''')", "a\nb"),
        ("FINAL(result=f(1) + 2)", "f(1) + 2"),
        ("FINAL(answer='Bern', confidence=0.9)", "Bern"),
        ("FINAL(answer='Bern', 'Basel')", "'Bern', 'Basel'"),
        ('FINAL("Bern",)', "Bern"),
        ('FINAL("Ann", age = 3)', '"Ann", age = 3'),
        ("FINAL(x = 3)", "x = 3"),
        ("FINAL(answer == 3)", "answer == 3"),
        ("FINAL(answers=3)", "answers=3"),
        ("FINAL(answer=)\nFINAL(42)", "42"),
        # none, and none yet
        ("n = 2\nFINAL(n)", None),
        ("n = 2\nFINAL(answer=n)", None),
        ("import re\ntowns = re.findall('O', context)\nFINAL(towns[0])", None),
        ("FINAL()", ""),
        ("FINAL(...)", ""),
        ("FINAL(42", None),
        ("```repl\nFINAL(42)\n```", None),
        ("```python\nFINAL(42)\n```", None),
    ],
)
@pytest.mark.parametrize("lenient", [False, True])
def test_a_final_answer_is_what_was_meant(text: str, answer: str | None, lenient: bool) -> None:
    parsed = parse_reply(text, lenient)
    assert (parsed.final, parsed.final_var) == (answer, None)


@pytest.mark.parametrize(
    "text",
    [
        "I would end with FINAL(a guess)",
        "Once I know it, I call FINAL(answer).",
        "I will use FINAL(x) to finish.",
        "I'll write FINAL(x)",
        "This is not FINAL(x) yet.",
        "The form is e.g. FINAL(x)",
        "FINAL(x) if that is right",
        "If that is right, the answer is FINAL(x)",
        "It is not sure, so I will use FINAL(x)",
        "I am not sure that the answer is FINAL(x)",
        "I will conclude: FINAL(x)",
        "I must then conclude: FINAL(x)",
        "If I find it I must conclude: FINAL(x)",
        "I must answer with: FINAL(x)",
        "I must call: FINAL(x)",
        "As soon as I have seen it, FINAL(x)",
        "As noted before, I will call FINAL(x)",
        "As shown in the example, FINAL(x)",
        "As noted, once it is known: FINAL(x)",
        "Before I finish, FINAL(x)",
        "Using this syntax, FINAL(x)",
        "By calling: FINAL(x)",
        "By writing it down, FINAL(x)",
        '{"name": "repl", "arguments": {"code": "FINAL(x)"}}',
        '{"code": "n = \\"a\\"; FINAL(x)"}',
        "the FINAL (and best) version",
        "SEMIFINAL(42)",
        "answer.FINAL(42)",
        "__FINAL__(42)",
        "final(42)",
        "FINALE(42)",
    ],
)
def test_a_finish_that_is_spoken_of_is_none(text: str) -> None:
    assert parse_reply(text, False).final is None
    assert parse_reply(text.replace("FINAL(", "FINAL_VAR("), False).final_var is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("FINAL_VAR(result)", "result"),
        ("  FINAL_VAR('result') ", "result"),
        ('FINAL_VAR("result")', "result"),
        ('FINAL_VAR("""result""")', "result"),
        ("FINAL_VAR(`result`)", "result"),
        ("FINAL_VAR(**result**)", "result"),
        ("FINAL_VAR(\u201cresult\u201d)", "result"),
        ("FINAL_VAR(\n  result\n)", "result"),
        ("FINAL_VAR (result)", "result"),
        ("Final_Var(result)", "result"),
        ("FINAL_VAR(result,)", "result"),
        ("FINAL\\_VAR(my\\_town)", "my_town"),
        ('FINAL_VAR(name="result")', "result"),
        ("FINAL_VAR(variable_name = result)", "result"),
        ("FINAL_VAR(result).", "result"),
        ("**FINAL_VAR(result)**", "result"),
        ("`FINAL_VAR(result)`.", "result"),
        ("The answer is in FINAL_VAR(result).", "result"),
        ("FINAL_VAR: result", "result"),
        ("**FINAL_VAR:** `result`.", "result"),
        ("FINAL(FINAL_VAR(result))", "result"),
        ("FINAL_VAR(found[(0)])", "found[(0)]"),
        ("FINAL_VAR(a) FINAL_VAR(b)", "a"),
        ("FINAL_VAR(...)\nFINAL_VAR(result)", "result"),
        ("FINAL_VAR: the name of it", None),
        ("I will use FINAL_VAR(result)", None),
        ("FINAL_VAR(result", None),
        ("```repl\nFINAL_VAR(result)\n```", None),
        ("```python\nFINAL_VAR(result)\n```", None),
    ],
)
@pytest.mark.parametrize("lenient", [False, True])
def test_a_final_variable_is_named_in_every_form(text: str, name: str | None, lenient: bool) -> None:
    assert parse_reply(text, lenient).final_var == name


def test_a_final_variable_comes_before_a_final_answer() -> None:
    parsed = parse_reply("FINAL(x)\nFINAL_VAR(y)", False)
    assert (parsed.final, parsed.final_var) == (None, "y")
