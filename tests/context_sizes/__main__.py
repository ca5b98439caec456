"""``python -m tests.context_sizes [--write | POLICY ...]``.

Without a policy: measure, and print the page (or write it). With policies: each operation on a text of the
full size that the policy promises, in every language, under the policy as it is.
"""

from __future__ import annotations

import sys
import time

import anyio

from rlm_wasm.api.sandbox import Sandbox
from rlm_wasm.policy.model import Policy
from tests.context_sizes.page import PAGE, page
from tests.context_sizes.work import LANGUAGES, OPERATIONS, Cost, measure, text_of

MEASURED_CHARS = 8 << 20


def measured(chars: int = MEASURED_CHARS) -> dict[tuple[str, str], Cost]:
    """Return the cost of every operation in every language."""
    return {
        (name, kind): measure(operation, text_of(language, operation.form, chars))
        for kind, language in LANGUAGES.items()
        for name, operation in OPERATIONS.items()
    }


async def full_size(policy: str) -> int:
    """Return how many operations did not fit the policy at the size that it promises."""
    failed = 0
    async with Sandbox(Policy.builtin(policy)) as sandbox:
        chars = sandbox.policy.sandbox.whole_context_chars_max
        for kind, language in LANGUAGES.items():
            for name, operation in OPERATIONS.items():
                began = time.monotonic()
                async with await sandbox.session() as session:
                    await session.load("context", text_of(language, operation.form, chars))
                    ended = await session.exec(operation.code)
                failed += ended.error is not None
                print(
                    f"{policy:9} {kind:9} {name:15} {ended.outcome:17} {ended.memory_peak_bytes >> 20:5} MiB "
                    f"{ended.fuel_used / 1e9:6.1f} G fuel {ended.executed_ns / 1e9:5.1f} s "
                    f"({time.monotonic() - began:.0f} s)",
                    flush=True,
                )
    return failed


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if policies := [each for each in arguments if not each.startswith("-")]:
        sys.exit(min(1, sum(anyio.run(full_size, policy) for policy in policies)))
    text = page(measured())
    if "--write" in arguments:
        PAGE.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
