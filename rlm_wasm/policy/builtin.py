"""The policies that ship with the package: found beside it in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rlm_wasm.errors import PolicyError

_PACKAGE: Final = Path(__file__).resolve().parent.parent


def builtin_names() -> tuple[str, ...]:
    """Return the names of the built-in policies, sorted."""
    return tuple(sorted(path.stem for path in _folder().glob("*.toml")))


def builtin_path(name: str) -> Path:
    """Return the file of the built-in policy `name`; raise PolicyError naming those that exist."""
    # Membership, not path arithmetic: `name` may come from a command line and hold "../".
    if name not in builtin_names():
        known = ", ".join(builtin_names())
        raise PolicyError(f"no built-in policy is called {name!a}", hint=f"there are: {known}")
    return _folder() / f"{name}.toml"


def _folder() -> Path:
    # The wheel's copy first: beside an installed package, `policies/` could be anyone's.
    packaged = _PACKAGE / "_policies"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "policies"
