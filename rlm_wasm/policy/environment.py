"""Models, endpoints and keys as people have them set in their environment, for who wrote no policy.

Pure: it is told which variables there are. It reads what a variable says only where that is an address or a
model's name, never a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from rlm_wasm.errors import UsageError
from rlm_wasm.policy.provider_tables import FILE_KINDS

_CONNECT_TIMEOUT_MS: Final = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownProvider:
    """A provider that many people have a key of. `root` and `sub` are asked where no model is named."""

    name: str
    base_url: str
    key: str
    kind: str = "openai"
    base_url_env: tuple[str, ...] = ()
    model_env: tuple[str, ...] = ()
    root: str | None = None
    sub: str | None = None
    # What its /chat/completions calls the token cap; what is only compatible knows the old name.
    output_tokens_field: str = "max_tokens"


KNOWN: Final = (
    KnownProvider(
        name="openai",
        base_url="https://api.openai.com/v1",
        key="OPENAI_API_KEY",
        base_url_env=("OPENAI_BASE_URL", "OPENAI_API_BASE"),
        model_env=("OPENAI_MODEL",),
        root="gpt-5",
        sub="gpt-5-mini",
        output_tokens_field="max_completion_tokens",
    ),
    KnownProvider(
        name="anthropic",
        kind="anthropic",
        base_url="https://api.anthropic.com/v1",
        key="ANTHROPIC_API_KEY",
        base_url_env=("ANTHROPIC_BASE_URL",),
        model_env=("ANTHROPIC_MODEL",),
        root="claude-sonnet-4-5",
        sub="claude-haiku-4-5",
    ),
    KnownProvider(
        name="gemini",
        base_url="https://generativelanguage.googleapis.com/v1beta/openai",
        key="GEMINI_API_KEY",
    ),
    KnownProvider(name="openrouter", base_url="https://openrouter.ai/api/v1", key="OPENROUTER_API_KEY"),
    KnownProvider(name="mistral", base_url="https://api.mistral.ai/v1", key="MISTRAL_API_KEY"),
    KnownProvider(name="deepseek", base_url="https://api.deepseek.com/v1", key="DEEPSEEK_API_KEY"),
    KnownProvider(name="groq", base_url="https://api.groq.com/openai/v1", key="GROQ_API_KEY"),
    KnownProvider(name="together", base_url="https://api.together.xyz/v1", key="TOGETHER_API_KEY"),
    KnownProvider(name="xai", base_url="https://api.x.ai/v1", key="XAI_API_KEY"),
)
_BY_NAME: Final = {each.name: each for each in KNOWN}
# Anthropic's own variable names the address without the version that its paths begin with.
_VERSION: Final = "/v1"


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was taken: tables of a policy, and for each endpoint the variable of its key; "" for none."""

    root: str
    sub: str
    providers: Mapping[str, Mapping[str, Any]]

    @property
    def models(self) -> dict[str, Any]:
        """The models of a policy, with no price of anybody's."""
        return {"root": self.root, "sub": self.sub, "child": [self.sub], "prices": {}, "settings": None}


def choose(
    environ: Mapping[str, str],
    *,
    model: str | None = None,
    sub_model: str | None = None,
    base_url: str | None = None,
    key_env: str | None = None,
) -> Chosen:
    """Return which models answer, where and with which key; what is given goes before what is set.

    A model is ``provider:model`` of a provider above, a file's (``script:FILE``), or a bare name at the
    endpoint that is given or set. Raises UsageError that says what to set if nothing names a model.
    """
    home = _at(base_url) if base_url else _provider_set(environ)
    known, root = _named(model, home)
    if root is None:
        if known is None:
            raise _nothing_set()
        root = _first(environ, known.model_env) or (
            None if _elsewhere(known, environ, base_url) else known.root
        )
        if root is None:
            raise UsageError(f"which model of {known.name}?", hint="name it: --model NAME")
    sub_known, sub = _named(sub_model, home)
    if sub is None:
        sub_known, sub = known, known.sub if known is not None and known.root == root and known.sub else root
    tables: dict[str, Mapping[str, Any]] = {}
    for each in (known, sub_known):
        if each is not None and each.name not in tables:
            tables[each.name] = _table(each, environ, base_url if each is home else None, key_env)
    return Chosen(_spec(known, root), _spec(sub_known, sub), tables)


def _provider_set(environ: Mapping[str, str]) -> KnownProvider | None:
    """Return the first provider that has a key or an address here."""
    for known in KNOWN:
        if environ.get(known.key) or _first(environ, known.base_url_env):
            return known
    return None


def _at(base_url: str) -> KnownProvider:
    """Return the provider at an address; at any other, one that speaks as openai's do."""
    for known in KNOWN:
        if _host(known.base_url) == _host(base_url):
            return known
    return _BY_NAME["openai"]


def _named(model: str | None, home: KnownProvider | None) -> tuple[KnownProvider | None, str | None]:
    """Return the provider that a model names, or else `home`, and the model's name there."""
    if model is None:
        return home, None
    first, colon, rest = model.partition(":")
    if colon and rest and first in FILE_KINDS:
        return None, model
    if colon and rest and first in _BY_NAME:
        return _BY_NAME[first], rest
    if home is None:
        raise UsageError(
            f"no endpoint is known for the model {model!a}",
            hint=f"--model PROVIDER:NAME with one of {', '.join(_BY_NAME)}; or --base-url URL",
        )
    return home, model


def _spec(known: KnownProvider | None, model: str) -> str:
    return model if known is None else f"{known.name}:{model}"


def _table(
    known: KnownProvider, environ: Mapping[str, str], base_url: str | None, key_env: str | None
) -> dict[str, Any]:
    url = base_url or _first(environ, known.base_url_env) or known.base_url
    # One with no slash behind its host has no path.
    if known.kind == "anthropic" and "/" not in url.partition("://")[2].rstrip("/"):
        url = url.rstrip("/") + _VERSION
    key = known.key if key_env is None else key_env
    if key_env is None and url != known.base_url and not environ.get(key):
        key = ""  # a server of one's own, as most are without one
    table = {
        "kind": known.kind,
        "base_url": url,
        "api_key_env": key,
        "connect_timeout_ms": _CONNECT_TIMEOUT_MS,
    }
    if known.kind == "openai":
        own = _host(url) == _host(known.base_url)
        table["output_tokens_field"] = known.output_tokens_field if own else "max_tokens"
    return table


def _elsewhere(known: KnownProvider, environ: Mapping[str, str], base_url: str | None) -> bool:
    """Whether another server than the provider's own is asked: its models are called as they are there."""
    url = base_url or _first(environ, known.base_url_env)
    return url is not None and _host(url) != _host(known.base_url)


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:  # told by the policy's own check
        return None


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((environ[name] for name in names if environ.get(name)), None)


def _nothing_set() -> UsageError:
    keys = ", ".join(known.key for known in KNOWN[:2])
    return UsageError(
        "there is no model to ask: no key or address of a provider is set, and none is named",
        hint=f"export {keys} or another provider's key; or --base-url http://localhost:8000/v1 --model NAME; "
        "or --policy FILE",
    )
