"""`PrintedRun`: what `verbose=True` writes to standard output, a turn at a time."""

from __future__ import annotations

import sys
from typing import Final

from rlm_wasm.compat.records import RLMChatCompletion, RLMIteration, RLMMetadata

_LINES_MAX: Final = 200
_CALL_CHARS_MAX: Final = 200


class PrintedRun:
    """Writes plain lines; what models and guests wrote is made harmless to a terminal first."""

    def begin(self, metadata: RLMMetadata) -> None:
        """Write how the RLM was made."""
        _write(
            f"rlm: {metadata.backend}:{metadata.root_model}, {metadata.max_iterations} turns, depth "
            f"{metadata.max_depth}"
        )

    def iteration(self, iteration: RLMIteration, number: int) -> None:
        """Write a turn: the reply, its code, what that came to, and whom it asked."""
        _write(f"── iteration {number} ({iteration.iteration_time or 0:.2f}s)")
        _block("", iteration.response)
        for block in iteration.code_blocks:
            result = block.result
            _block("> ", block.code)
            _block("< ", result.stdout)
            _block("! ", result.stderr)
            for call in result.rlm_calls:
                said = call.response if call.error is None else call.error
                _write(f"↳ {call.root_model}: {_cut(call.prompt)} → {_cut(said)}")

    def end(self, made: RLMChatCompletion) -> None:
        """Write the answer and what it took."""
        usage = made.usage_summary
        _write("── answer")
        _block("", made.response)
        cost = "" if usage.total_cost is None else f", ${usage.total_cost:.6f}"
        tokens = f"{usage.total_input_tokens:,} + {usage.total_output_tokens:,} tokens"
        _write(f"── {made.execution_time:.2f}s, {tokens}{cost}")


def _block(mark: str, text: str) -> None:
    lines = text.strip("\n").split("\n") if text.strip("\n") else []
    for line in lines[:_LINES_MAX]:
        _write(mark + line)
    if len(lines) > _LINES_MAX:
        _write(f"{mark}… and {len(lines) - _LINES_MAX} more lines")


def _cut(text: object) -> str:
    words = " ".join(str(text).split())
    return words if len(words) <= _CALL_CHARS_MAX else words[:_CALL_CHARS_MAX] + "…"


def _write(line: str) -> None:
    shown = "".join(
        char if char.isprintable() or char == "\t" else "\N{REPLACEMENT CHARACTER}" for char in line
    )
    encoding = sys.stdout.encoding or "utf-8"
    print(shown.encode(encoding, "replace").decode(encoding))
