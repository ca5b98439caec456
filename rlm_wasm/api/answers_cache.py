"""The cache of answers that a policy describes, and a run's way to its models through it."""

from __future__ import annotations

import os

from rlm_wasm.artifacts.machine_key import machine_key
from rlm_wasm.engine.broker import Router
from rlm_wasm.policy.model import Policy
from rlm_wasm.providers.base import Provider
from rlm_wasm.providers.cached_provider import CachedProvider
from rlm_wasm.providers.response_cache import KEY_BYTES, ResponseCache


def cache_of(policy: Policy) -> ResponseCache | None:
    """Return the policy's cache, not opened yet; None: it has none."""
    table = policy.cache
    if table is None:
        return None
    # What outlives the process is sealed by what does, too.
    secret = machine_key if table.file else lambda: os.urandom(KEY_BYTES)
    answer_bytes_max = policy.query.response_bytes_max
    return ResponseCache(table, policy.tenant_limits(), table.file, secret, answer_bytes_max)


def through_cache(route: Router, cache: ResponseCache, policy: Policy, tenant: str) -> Router:
    """Return a route on which a tenant's answers are kept and given again."""
    sampled = policy.cache is not None and policy.cache.sampled

    def cached(spec: str) -> tuple[Provider, str]:
        provider, model = route(spec)
        return CachedProvider(provider, cache, tenant, sampled=sampled), model

    return cached
