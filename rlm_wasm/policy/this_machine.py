"""URLs that mean this machine: told by the URL alone, without asking anybody for the addresses of a name.

Whoever connects to one of them looks at the other end, and refuses one that is elsewhere.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_this_machine(url: str) -> bool:
    """Whether a URL's host is ``localhost``, or a loopback address as it is written."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # no URL: told where it is used
        return False
    return host == "localhost" or is_loopback(host)


def is_loopback(address: str) -> bool:
    """Whether a text is an address that no packet leaves this machine for."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback
