"""Model providers: the only code of this package that talks to the network."""

from rlm_wasm.providers.base import Completion, Provider, ProviderFailure, Query
from rlm_wasm.providers.registry import ProviderSet, open_provider

__all__ = ["Completion", "Provider", "ProviderFailure", "ProviderSet", "Query", "open_provider"]
