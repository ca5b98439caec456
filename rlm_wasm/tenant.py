"""A tenant: the name of whoever a session belongs to, written into labels, events and files."""

from __future__ import annotations

from typing import Final

from rlm_wasm.errors import UsageError

TENANT_CHARS_MAX: Final = 256


def checked_tenant(tenant: str) -> str:
    """Return the name of a tenant, as a plain str.

    Raises UsageError for one that is too long, or that UTF-8 cannot hold: it would spoil every row's export.
    """
    if not isinstance(tenant, str):
        raise UsageError(f"a tenant's name is text, not a {type(tenant).__name__}")
    # A subclass may lie about its length, or be equal to another tenant's name.
    tenant = str.__str__(tenant)
    if len(tenant) > TENANT_CHARS_MAX:
        raise UsageError(f"a tenant's name has at most {TENANT_CHARS_MAX} characters")
    try:
        tenant.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"a tenant's name is text; {tenant!a} holds half a character") from None
    return tenant
