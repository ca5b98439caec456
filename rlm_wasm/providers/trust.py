"""The certificates that an endpoint's own is checked against."""

from __future__ import annotations

import ssl

from rlm_wasm.errors import UsageError


def trust_in(ca_file: str | None, key: str, environment_file: str) -> ssl.SSLContext | None:
    """Return what trusts the certificates of a file and no others; None: the usual ones are meant.

    The policy's `ca_file`, which `key` names, goes before the environment's SSL_CERT_FILE. Raises UsageError
    for a file that holds none: to trust the usual ones instead would not be what was asked for.
    """
    file, told = (ca_file, key) if ca_file else (environment_file, "the environment variable SSL_CERT_FILE")
    if not file:
        return None
    try:
        return ssl.create_default_context(cafile=file)
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
        why = (exc.strerror if isinstance(exc, OSError) else None) or "not a usable path"
        if isinstance(exc, ssl.SSLError):
            why = "holds no certificate in PEM form"
        raise UsageError(f"{told}: {file!a}: {why}") from exc
