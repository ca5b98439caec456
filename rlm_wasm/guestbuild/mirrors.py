"""The package mirrors this machine's apt is configured for, asked at build time and never written down."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_SCHEMES: Final = ("http://", "https://", "file:/")
_PROXY: Final = re.compile(r'Acquire::(https?)::Proxy "([^"]+)";', re.IGNORECASE)
_TIMEOUT_S: Final = 30


@dataclass(frozen=True, slots=True)
class Mirror:
    """The root that pool paths hang below, ending in "/", and the proxy apt would use for it."""

    root: str
    proxy: str | None = None

    def url(self, pool: str) -> str:
        return self.root + pool.replace("+", "%2b").replace("~", "%7e")


def configured_mirrors() -> tuple[Mirror, ...]:
    """Return apt's mirrors in its own order, each once; empty where there is no apt.

    Works before the first `apt-get update` and without root.
    """
    if shutil.which("apt-get") is None:
        return ()
    # --no-release-info: list the roots although no index was ever downloaded.
    roots = _output("apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI)")
    return parse_mirrors(roots.splitlines(), _output("apt-config", "dump"))


def parse_mirrors(roots: Iterable[str], configuration: str) -> tuple[Mirror, ...]:
    """Return the usable mirrors among `roots`, with the proxies that apt's `configuration` names."""
    proxies = {scheme.lower(): proxy for scheme, proxy in _PROXY.findall(configuration)}
    found: dict[str, Mirror] = {}
    for line in roots:
        root = line.strip()
        if not root.startswith(_SCHEMES):
            continue
        root = root if root.endswith("/") else root + "/"
        proxy = proxies.get(root.partition(":")[0])
        found.setdefault(root, Mirror(root, None if proxy in (None, "DIRECT") else proxy))
    return tuple(found.values())


def _output(*argv: str) -> str:
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
