"""What a build shows: a bar on a terminal, plain lines elsewhere, and how long is left."""

from __future__ import annotations

import io

from rich.console import Console
from rich.progress import Progress

from rlm_wasm.cli.build_progress import BarProgress, PlainProgress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_elsewhere_each_stage_is_a_plain_line_with_what_is_left() -> None:
    out, clock = io.StringIO(), Clock()
    progress = PlainProgress(Console(file=out), clock)
    progress.plan([("compile", 40), ("link", 5)])
    progress.begin("compile", "compiling [bold]as it is[/bold]")
    clock.now = 80
    progress.advance("compile", 0.5)
    progress.begin("link", "linking")
    clock.now = 90
    progress.end("compile")
    progress.end("link")
    progress.note("a note")
    assert out.getvalue().splitlines() == [
        "compile: compiling [bold]as it is[/bold] (about 40 s left)",
        "link: linking (about 1.5 min left)",
        "compile: done in 90.0 s",
        "link: done in 10.0 s",
        "note: a note",
    ]


def test_without_a_plan_no_line_says_what_is_left() -> None:
    out = io.StringIO()
    PlainProgress(Console(file=out)).begin("resolve", "asking pip")
    assert out.getvalue() == "resolve: asking pip\n"


def test_on_a_terminal_the_bar_moves_by_each_stages_share() -> None:
    bar = Progress(console=Console(file=io.StringIO(), force_terminal=True))
    progress = BarProgress(bar.console, bar)
    shown: list[float] = []

    def look() -> None:
        shown.append(bar.tasks[0].percentage)

    progress.plan([("first", 30), ("second", 70)])
    look()
    progress.begin("first", "one")
    progress.advance("first", 0.5)
    look()
    progress.begin("second", "two")
    assert bar.tasks[0].description == "two"
    progress.advance("second", 0.5)
    look()
    progress.end("second")
    assert bar.tasks[0].description == "one"
    look()
    progress.end("first")
    look()
    assert shown == [0, 15, 50, 85, 100]


def test_a_new_plan_starts_again() -> None:
    bar = Progress(console=Console(file=io.StringIO(), force_terminal=True))
    progress = BarProgress(bar.console, bar)
    progress.plan([("download", 1), ("first", 1)])
    progress.begin("download", "one")
    progress.advance("download", 1.0)
    progress.plan([("download", 1), ("first", 3)])
    assert bar.tasks[0].percentage == 0
