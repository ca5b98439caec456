"""``rlm-wasm mcp``: sessions, and questions about files, for MCP clients."""

from __future__ import annotations

import logging
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from rlm_wasm.cli import output
from rlm_wasm.cli.early_interrupt import ready
from rlm_wasm.cli.exit_codes import ExitCode
from rlm_wasm.cli.first_use import wait_for_first_use
from rlm_wasm.cli.image_option import image_option, with_image
from rlm_wasm.cli.machine_policy import policy_for
from rlm_wasm.cli.mcp_http import HttpOptions
from rlm_wasm.cli.preload import preload_guest
from rlm_wasm.cli.who_answers import Taken, who_answers
from rlm_wasm.errors import PolicyError, RlmWasmError, UsageError
from rlm_wasm.policy.model import Policy

if TYPE_CHECKING:
    from rlm_wasm.api.runtime import Runtime
    from rlm_wasm.mcp.client_calls import Served

_LIKELY_POLICY: Final = "strict"


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenServer:
    """What the command line says, as it says it."""

    roots: tuple[str, ...]
    policy_name: str | None
    inline: bool
    image: str | None
    model: str | None
    sub_model: str | None
    base_url: str | None
    key_env: str | None
    prices: tuple[str, ...]
    # No log's answers are given for those of a model.
    answers_file: None = None

    def __post_init__(self) -> None:
        if self.inline and self.policy_name is not None:
            raise UsageError(
                "--inline is for when no policy is named", hint='a policy says isolation = "inline"'
            )

    @property
    def names_a_model(self) -> bool:
        """Whether a model is wanted, and not just taken where there is one."""
        return self.model is not None or self.base_url is not None


@click.command("mcp")
@click.option(
    "--root",
    "roots",
    multiple=True,
    metavar="DIR",
    help="A folder that ask_over_files may read in, and nothing outside it. May be repeated.",
)
@click.option(
    "--policy",
    "policy_name",
    metavar="P",
    help="A built-in policy or a file. Without: strict, or container where the machine gives no more, "
    "with the models and keys that the environment names.",
)
@click.option(
    "--inline",
    is_flag=True,
    help="Without --policy: run the guests in this process, behind the wasm wall only.",
)
@image_option
@click.option("--model", metavar="M", help="The root model of ask_over_files, as provider:name.")
@click.option("--sub-model", metavar="M", help="The model that answers llm_query.")
@click.option("--base-url", metavar="URL", help="The endpoint of the root model's provider.")
@click.option(
    "--key-env",
    metavar="NAME",
    help='The environment variable with that endpoint\'s key; "": it has none.',
)
@click.option(
    "--price",
    "prices",
    multiple=True,
    metavar="[MODEL=]IN,OUT",
    help="What a model costs, in dollars for a million tokens, or free. May be repeated.",
)
@click.option(
    "--http",
    metavar="HOST:PORT",
    help="Serve over HTTP, at the path /mcp, instead of over pipes; port 0 is any that is free.",
)
@click.option(
    "--keys",
    "keys_file",
    metavar="FILE",
    help="The bearer keys of clients: a line for each, a key or a name and a key. Needed but on loopback.",
)
@click.option("--keys-env", metavar="NAME", help="The environment variable that has them.")
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME[:PORT]",
    help="What this server is called besides, as requests say it in their Host.",
)
@click.option(
    "--allow-origin",
    "origins",
    multiple=True,
    metavar="ORIGIN",
    help="A page that may ask from a browser, such as https://chat.example.",
)
def mcp(
    *,
    http: str | None,
    keys_file: str | None,
    keys_env: str | None,
    hosts: tuple[str, ...],
    origins: tuple[str, ...],
    **given: Any,
) -> int:
    """Serve MCP, over standard input and output or HTTP: Python in sandboxed sessions, questions about files.

    A client gets run_python, open_session, close_session, list_sessions, fork, write_file, read_file and
    list_files; and ask_over_files, where there is a model to ask and a --root to ask it about. The folders
    of this machine are read by ask_over_files alone. Over pipes it ends with the client's connection.
    """
    over = HttpOptions(http=http, keys_file=keys_file, keys_env=keys_env, hosts=hosts, origins=origins)
    return _serve(GivenServer(**given), over)


def _serve(given: GivenServer, over: HttpOptions) -> int:
    _need_the_extra()
    preload_guest(given.policy_name or _LIKELY_POLICY, inline=given.inline, image=given.image)
    import anyio

    from rlm_wasm.cli.interrupts import interruptible
    from rlm_wasm.engine.isolation import import_worker
    from rlm_wasm.inputs.roots import Roots
    from rlm_wasm.mcp.http import client_of, serve_http
    from rlm_wasm.mcp.server import McpServer, the_only_client
    from rlm_wasm.mcp.serving import serving
    from rlm_wasm.mcp.stdio import serve_stdio

    taken, why_not = _taken(given)
    policy = with_image(taken.policy, given.image)
    import_worker(policy)
    roots = Roots(given.roots)
    opened = None if over.http is None else over.open()
    _log_to_stderr()
    ready()
    wait_for_first_use()
    interrupted = False

    async def main() -> None:
        nonlocal why_not
        async with AsyncExitStack() as stack:
            runtime = None
            if why_not is None and roots:
                runtime, why_not = await _open_runtime(stack, policy, given)
            served = await stack.enter_async_context(serving(policy, runtime, roots))
            where = "over stdio" if opened is None else f"on {opened[2]}"
            output.note(f"mcp {where} · {taken.words} · {_asks(served, why_not)}")
            server = McpServer(served, the_only_client if opened is None else client_of)
            stop = anyio.Event()
            with anyio.CancelScope() as scope:

                def end() -> None:
                    nonlocal interrupted
                    interrupted = True
                    if opened is None:
                        scope.cancel()
                    stop.set()

                async def serve() -> None:
                    if opened is None:
                        await serve_stdio(server, served.limits.message_bytes_max)
                    else:
                        await serve_http(server, *opened[:2], served.limits, stop)

                await interruptible(serve, end)

    anyio.run(main)
    return int(ExitCode.INTERRUPTED if interrupted else ExitCode.DONE)


def _need_the_extra() -> None:
    from importlib.util import find_spec

    if any(find_spec(name) is None for name in ("mcp", "mcp_types", "uvicorn")):
        raise UsageError("the package mcp is not installed", hint="pip install 'rlm-wasm[mcp]'")


def _taken(given: GivenServer) -> tuple[Taken, str | None]:
    """Return the policy, and why no model can be asked under it. Raises what says that there is no policy."""
    if not given.roots and given.policy_name is not None:
        return Taken(Policy.open(given.policy_name), f"policy {given.policy_name}"), None
    why_not = None
    try:
        if given.roots:
            return who_answers(given), None
    except (UsageError, PolicyError) as error:
        if given.policy_name is not None or given.names_a_model:
            raise
        why_not = error.message.partition("\n")[0]
    return Taken(*policy_for(inline=given.inline)), why_not


async def _open_runtime(
    stack: AsyncExitStack, policy: Policy, given: GivenServer
) -> tuple[Runtime | None, str | None]:
    from rlm_wasm.api.runtime import Runtime

    try:
        return await stack.enter_async_context(Runtime(policy)), None
    except RlmWasmError as error:
        if given.names_a_model:
            raise
        return None, error.message.partition("\n")[0]


def _asks(served: Served, why_not: str | None) -> str:
    if served.can_ask:
        return f"ask_over_files reads in {', '.join(served.roots.names)}"
    if not served.roots:
        return "no ask_over_files: there is no --root"
    return f"no ask_over_files: {why_not}"


class _OneLine(logging.Formatter):
    """A line of a log that no client can have a terminal obey."""

    def format(self, record: logging.LogRecord) -> str:
        return output.clean(super().format(record))


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(name)s: %(message)s"))
    logging.basicConfig(level=logging.ERROR, handlers=[handler])
