"""What a seeded root model says: cells in the words of the simulated guest, finishes, and nonsense."""

from __future__ import annotations

from random import Random


def root_reply(random: Random) -> str:
    """Return one reply."""
    draw = random.random()
    if draw < 0.05:
        return random.choice(("I think.", "", "```repl\nshow('unclosed')", "```python\nshow('no')\n```"))
    if draw < 0.09:
        return random.choice(('FINAL("said")', "FINAL(said)", 'FINAL_VAR("x")'))
    blocks = random.choice((1, 1, 1, 2, 3)) if draw < 0.97 else 40
    return "\n".join(f"```repl\n{cell(random)}\n```" for _ in range(blocks))


def cell(random: Random) -> str:
    """Return one cell."""
    lines = [_line(random) for _ in range(random.randrange(1, 5))]
    if random.random() < 0.3:
        lines.append(f'FINAL("done {random.randrange(100)}")')
    return "\n".join(lines)


def _line(random: Random) -> str:
    text = f"q{random.randrange(10_000)}"
    prompts = [f"{text}.{number}" for number in range(random.choice((1, 2, 3, 3, 5, 5, 8, 9)))]
    draw = random.random()
    if draw < 0.30:
        return f'{random.choice(("ask", "attempt", "attempt"))}("{text}"{_model(random)})'
    if draw < 0.50:
        return f"{random.choice(('ask_all', 'attempt_all', 'attempt_all'))}({prompts!r})"
    if draw < 0.62:
        return _child(random, text, prompts)
    if draw < 0.66:
        return random.choice(("trap()", "defy()", "hog()", f"raw({_frame(random)!r})"))
    return random.choice(
        (
            f'let("{text}", {random.randrange(100)})',
            f'show("{text}")',
            "left()",
            f"burn({random.choice((10**6, 10**8, 10**9, 10**10))})",
            f"nap({random.choice((1, 30, 400))})",
            "nap(30)",
            f"flood({random.choice((10, 9_000, 200_000))})",
            'fail("bad")',
            f'attempt("{"long " * random.choice((10, 900))}")',
            'attempt("half \\ud800")',
            "nonsense(",
            f'show("{"wide " * 200}")',
        )
    )


def _child(random: Random, text: str, prompts: list[str]) -> str:
    budget = random.choice(("", "", ', {"calls": 1}', ', {"calls": 3, "fuel": 9000000}', ', {"children": 0}'))
    if random.random() < 0.5:
        return f'{random.choice(("child", "attempt_child"))}("{text}"{budget})'
    return f"{random.choice(('children', 'attempt_children', 'attempt_children'))}({prompts[:4]!r}{budget})"


def _model(random: Random) -> str:
    return random.choice(("", "", "", ', "two:sub"', ', "one:root"', ', "no:model"'))


def _frame(random: Random) -> bytes:
    return random.choice(
        (
            b"",
            b"{}",
            b"[" * 50,
            b'{"type":"llm_query"}',
            b'{"type":"llm_query","prompt":"x","depth":0}',
            b'{"type":"llm_query_batch","prompts":[]}',
            b'{"type":"finish","answer":5}',
            b"\xff\xfe",
            b'{"type":"budget"}' + b" " * 5_000,
        )
    )
