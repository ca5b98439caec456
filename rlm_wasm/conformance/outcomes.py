"""The outcome of each test, and the line of each module."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

PASS: Final = "pass"  # noqa: S105 - a word
FAIL: Final = "fail"
SKIP: Final = "skip"
# The guest was ended by this test: by a limit, or by a trap.
CRASH: Final = "crash"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one test came to; `reason` is the exception's first line, or why it was skipped."""

    outcome: str
    reason: str = ""


@dataclass(slots=True)
class ModuleVerdict:
    """What a module's tests came to, by their ids. `whole` is that of the module, where no test began."""

    name: str
    tests: dict[str, Verdict] = field(default_factory=dict)
    whole: Verdict = Verdict(PASS)
    fuel: int = 0

    def count(self, outcome: str) -> int:
        return sum(each.outcome == outcome for each in self.tests.values())

    @property
    def failed(self) -> dict[str, Verdict]:
        """The tests that failed or ended the guest, the module itself among them."""
        found = {name: each for name, each in self.tests.items() if each.outcome in (FAIL, CRASH)}
        if self.whole.outcome in (FAIL, CRASH):
            found[self.name] = self.whole
        return found


@dataclass(frozen=True, slots=True)
class Totals:
    """The sum of a run: of all tests that were not skipped, `passed`."""

    modules: int
    passed: int
    failed: int
    crashed: int
    skipped: int

    @property
    def share(self) -> float:
        run = self.passed + self.failed + self.crashed
        return self.passed / run if run else 0.0


def total(modules: Iterable[ModuleVerdict]) -> Totals:
    found = list(modules)
    whole = [module.whole.outcome for module in found]
    return Totals(
        modules=len(found),
        passed=sum(module.count(PASS) for module in found),
        failed=sum(module.count(FAIL) for module in found) + whole.count(FAIL),
        crashed=sum(module.count(CRASH) for module in found) + whole.count(CRASH),
        skipped=sum(module.count(SKIP) for module in found) + whole.count(SKIP),
    )
