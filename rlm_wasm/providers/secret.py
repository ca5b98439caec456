"""A value that must not be printed, logged, compared or pickled by accident."""

from __future__ import annotations

from typing import Final, NoReturn

_REDACTED: Final = "[redacted]"
# A shorter value is a placeholder that local servers ask for ("none", "EMPTY"): no secret, and
# likely to appear in honest text.
_SECRET_CHARS_MIN: Final = 16


class Secret:
    """Holds a key. Only `reveal` gives it back, so that every place that sees it can be found."""

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        self.__value: Final = value

    def reveal(self) -> str:
        """Return the key itself. For the one place that puts it on the wire."""
        return self.__value

    def redact(self, text: str) -> str:
        """Return `text` with every occurrence of the key replaced."""
        return text.replace(self.__value, _REDACTED) if self.__value else text

    def is_in(self, text: str) -> bool:
        """Say whether `text` holds the key; always False for a value too short to be one."""
        return len(self.__value) >= _SECRET_CHARS_MIN and self.__value in text

    def __repr__(self) -> str:
        return "Secret([redacted])"

    __str__ = __repr__

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied")
