"""A regular expression of a script's author, searched in what guests wrote: in time linear in the text.

A prompt is a guest's, and with Python's own engine a plain pattern like `(a+)+$` and thirty characters keep a
processor for as long as they like, past every deadline. So patterns are RE2's: without backreferences and
lookaround, which no engine has in linear time. Else they mean what they mean to `re`, but that `$` is the end
of the text alone, `\\b` knows ASCII words, and no `\\W` or `\\S` stands in brackets.
"""

from __future__ import annotations

from typing import Any, Final

# What one may take: a longer text, or a larger machine, is no pattern of a script.
PATTERN_CHARS_MAX: Final = 4_096
MACHINE_BYTES_MAX: Final = 4 << 20


class Pattern:
    """Finds itself in texts."""

    def __init__(self, source: str) -> None:
        """Take a pattern. Raises ValueError that says what is wrong with it."""
        # Here and not above: a model from an endpoint needs no patterns, and the library takes time to load.
        import re2  # type: ignore[import-not-found]

        if len(source) > PATTERN_CHARS_MAX:
            raise ValueError(f"it is longer than {PATTERN_CHARS_MAX} characters")
        try:
            compiled = re2.compile(source, max_mem=MACHINE_BYTES_MAX)
        except (re2.error, RecursionError, OverflowError) as exc:
            raise ValueError(str(exc)) from exc
        if not isinstance(compiled, re2.Pattern):
            # The library's way out, unless the process has forbidden it: Python's engine.
            raise ValueError("lookaround, backreferences or too many repetitions need more than linear time")
        self._compiled: Final[Any] = compiled

    def has_group(self, group: int | str) -> bool:
        """Say whether there is a group of this number or name."""
        if isinstance(group, str):
            return group in self._compiled.groupindex
        return group <= int(self._compiled.groups)

    def search(self, text: str) -> Any:
        """Return what was found, by groups, or None."""
        try:
            return self._compiled.search(text)
        except UnicodeEncodeError:  # half a character, which matches nothing
            return self._compiled.search(text.encode("utf-8", "replace").decode())
