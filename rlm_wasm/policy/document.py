"""A TOML file as data, places and comments; the one place that reads a policy from disk."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rlm_wasm.errors import PolicyError
from rlm_wasm.policy.builtin import builtin_names
from rlm_wasm.policy.lines import Remark, index_text
from rlm_wasm.policy.problems import Key, Place, Places
from rlm_wasm.system.small_file import read_beginning

# Room for 256 priced models and their comments, and for own instructions and examples.
DOCUMENT_BYTES_MAX: Final = 128 * 1024
# The parser's time grows with the square of a dotted key, which has to fit in one line: 64 KiB
# of "a.a.a" took 16 s.
LINE_CHARS_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: its name as messages show it, its data, and the place and the comments of each key."""

    origin: str
    data: dict[str, Any]
    places: Places
    remarks: Mapping[Key, Remark]


def read_document(path: Path) -> Document:
    """Read and parse `path`; the only exception out is PolicyError, which names the file."""
    origin = _shown(path)
    try:
        raw = read_beginning(path, DOCUMENT_BYTES_MAX + 1)
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else "not a usable path"
        raise PolicyError(
            f"{origin}: cannot be read: {reason}",
            hint=f"a policy is a TOML file, or a built-in one: {', '.join(builtin_names())}",
        ) from exc
    return parse_document(raw, origin)


def parse_document(raw: bytes, origin: str) -> Document:
    """Parse `raw` as TOML; the only exception out is PolicyError with a line where one is known."""
    if len(raw) > DOCUMENT_BYTES_MAX:
        raise PolicyError(f"{origin}: is larger than {DOCUMENT_BYTES_MAX} bytes; a policy is a small file")
    try:
        text = raw.decode("utf-8-sig")  # the mark that some editors begin a file with is none of it
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        raise PolicyError(f"{origin}:{line}: is not UTF-8 text (byte 0x{raw[exc.start]:02x})") from exc
    text = text.replace("\r\n", "\n")
    for number, line_text in enumerate(text.split("\n"), 1):
        if len(line_text) > LINE_CHARS_MAX:
            raise PolicyError(f"{origin}:{number}: is longer than {LINE_CHARS_MAX} characters")
    try:
        data, index = tomllib.loads(text), index_text(text)
        places = {key: Place(origin, line) for key, line in index.lines.items()}
        return Document(origin, data, places, index.remarks)
    except tomllib.TOMLDecodeError as exc:
        raise PolicyError(_syntax_message(origin, text, str(exc))) from exc
    except RecursionError as exc:
        raise PolicyError(f"{origin}: is nested too deeply") from exc
    except ValueError as exc:  # int() refuses more digits than the interpreter is set to
        raise PolicyError(f"{origin}: holds a number with too many digits") from exc


def _syntax_message(origin: str, text: str, message: str) -> str:
    # tomllib says "(at line 3, column 5)" or "(at end of document)", and quotes at most one
    # character or one key; a key pasted where it does not belong is not worth the risk.
    line = text.count("\n") + 1
    if found := re.search(r"\(at line (\d+), column \d+\)$", message):
        line = int(found[1])
    reason = re.sub(r"\s*\(at (line|end).*\)$", "", message, flags=re.DOTALL)
    return f"{origin}:{line}: is not valid TOML: {ascii(reason)[1:-1][:200]}"


def _shown(path: Path) -> str:
    text = str(path)
    return text if text.isprintable() else ascii(text)
