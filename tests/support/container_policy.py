"""policies/container.toml, made from strict.toml: `python -m tests.support.container_policy` writes it."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[2] / "policies"
PAGE = FOLDER / "container.toml"

_HEAD = """\
# container: strict, for a machine that refuses new namespaces, as most containers do. For code that is
# hostile until proven otherwise, over contexts of about 50 MB.
#
# It differs from strict in the key `lockdown` alone. What that gives up is in threat_model/limitations.md.
"""
_REQUIRED = "require_lockdown = true\n"
_LOCKDOWN = """\
# Of the layers, those that need no namespace: the system-call filter, Landlock, no capability and no new
# privilege, another user where this one is root, limits, no descriptor but six, no environment. Others
# stand too where the machine gives them. "full": all; "namespaced": all but the namespace of users; or an
# array of their names.
lockdown = "filtered"
"""


def page() -> str:
    """Return the whole file."""
    text = (FOLDER / "strict.toml").read_text(encoding="utf-8")
    first, _, rest = text.partition("\n")
    assert first.startswith("# strict: ")
    assert rest.count(_REQUIRED) == 1
    return _HEAD + rest.replace(_REQUIRED, _REQUIRED + _LOCKDOWN)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
