"""A worker's decision how long to stay awake for its host's answer: pure.

A process that sleeps is woken by an interrupt of another processor, which costs the one who answers
as much as the one who wakes. Where answers come at once, from a cache or a recording, staying awake is
cheaper for both. Where they do not, as from any model that thinks, it would be processor time for
nothing, and on a machine that is busy with something else it would be taken from the host.

So a worker stays awake only after several quick answers in a row. One slow answer ends that, and each
that was waited for in vain doubles how many quick ones it takes to begin again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Longer than the host takes to answer what needs no network. A shorter one is worse than none: the
# worker is just going to sleep when the answer comes.
AWAKE_NS_MAX: Final = 300_000
# So many quick answers in a row come before a wait is spent awake; so many at most, after many in vain.
QUICK_FROM: Final = 8
QUICK_FROM_MAX: Final = 1_024


@dataclass(frozen=True, slots=True)
class AdaptivePoll:
    """What the answers so far say about the next one."""

    quick: int = 0
    wanted: int = QUICK_FROM

    def awake_ns(self, processors: int) -> int:
        """Return how long to stay awake for the next answer, where there are `processors`."""
        # On one processor the host could not answer meanwhile.
        return AWAKE_NS_MAX if self.quick >= self.wanted and processors > 1 else 0

    def after(self, waited_ns: int) -> AdaptivePoll:
        """Return what is known once another answer took `waited_ns`."""
        awake = self.quick >= self.wanted
        if waited_ns <= AWAKE_NS_MAX:
            wanted = max(QUICK_FROM, self.wanted - 1) if awake else self.wanted
            return AdaptivePoll(min(self.quick + 1, QUICK_FROM_MAX), wanted)
        return AdaptivePoll(0, min(2 * self.wanted, QUICK_FROM_MAX) if awake else self.wanted)
