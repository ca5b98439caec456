"""The provider of kind `litellm`, by the name that its users look for."""

from rlm_wasm.providers.litellm import LiteLlmProvider as LiteLlmProvider
