"""A value that must not be printed, logged, compared or pickled by accident."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, NoReturn

from rlm_wasm.errors import UsageError

_REDACTED: Final = "[redacted]"
# A shorter value is a placeholder that local servers ask for ("none", "EMPTY"): no secret, and
# likely to appear in honest text.
_SECRET_CHARS_MIN: Final = 16
_KEY_CHARS_MAX: Final = 4096


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

    @property
    def is_set(self) -> bool:
        """Whether there is a value at all."""
        return bool(self.__value)

    @property
    def is_sendable(self) -> bool:
        """Whether an HTTP header can hold it: no spaces, no line ends, ASCII, not too long."""
        return len(self.__value) <= _KEY_CHARS_MAX and all("!" <= char <= "~" for char in self.__value)

    def __repr__(self) -> str:
        return "Secret([redacted])"

    __str__ = __repr__

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied")


class Keys:
    """Where keys are read: the process's environment, or a mapping instead. Shows neither.

    No frame of ours holds a key or the whole environment while it raises, so that a traceback with its
    locals can be printed.
    """

    __slots__ = ("__environ",)

    def __init__(self, environ: Mapping[str, str] | None) -> None:
        self.__environ: Final = os.environ if environ is None else environ

    def read(self, name: str, provider: str) -> Secret:
        """Return a provider's key in the variable `name`; UsageError if there is none that can be sent."""
        key = Secret(self.__environ.get(name, ""))
        if not key.is_set:
            raise UsageError(
                f"the environment variable {name}, which providers.{provider}.api_key_env names, is not set",
                hint=f"export {name}=..., or choose a model that needs no key, such as script:FILE",
            )
        # Checked here so that no HTTP library gets to complain about it and quote it.
        if not key.is_sendable:
            raise UsageError(
                f"the environment variable {name} does not hold a key: it has spaces, line ends or "
                "characters that are not ASCII, or is too long"
            )
        return key

    def certificates(self) -> str:
        """Return the file of certificates that SSL_CERT_FILE names, which is no secret; "": it names none."""
        return self.__environ.get("SSL_CERT_FILE", "")

    def __repr__(self) -> str:
        return "Keys([redacted])"
