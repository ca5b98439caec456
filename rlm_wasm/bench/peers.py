"""Other ways to run a model's Python, as far as they are installed here. None is a dependency.

Each is driven through its public interface the way its documentation shows, with one host function
that the code can call. What they promise differs: the first has no wall at all.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib import metadata
from typing import Any, Final, Protocol

ASK: Final = "ask"
HostFunction = Callable[[str], str]


class PeerAbsent(Exception):
    """The peer, or something it needs, is not installed here."""


class PeerSession(Protocol):
    """One fresh interpreter of a peer. State stays from one call to the next."""

    @property
    def ask(self) -> str:
        """What its code calls the host function."""

    def define(self, source: str) -> None:
        """Run statements."""

    def value(self, expression: str) -> str:
        """Evaluate an expression and return it as text."""

    def close(self) -> None:
        """Free it."""


class Peer(Protocol):
    """One way to run Python. Close it after its sessions."""

    @property
    def what(self) -> str:
        """What it is, for the reader of the table."""

    def session(self, answer: HostFunction) -> PeerSession:
        """Make a fresh interpreter whose code can call `answer`."""

    def close(self) -> None:
        """Free what its sessions share."""


class Native:
    """`exec` in this process: no wall, no limit, no isolation. What everything else is compared with."""

    def __init__(self) -> None:
        self.what: Final = f"exec in this process, CPython {sys.version.split()[0]}, no isolation"

    def session(self, answer: HostFunction) -> PeerSession:
        return _NativeSession(answer)

    def close(self) -> None:
        """Nothing is shared."""


class _NativeSession:
    ask = ASK

    def __init__(self, answer: HostFunction) -> None:
        self._namespace: dict[str, object] = {ASK: answer}

    def define(self, source: str) -> None:
        exec(source, self._namespace)  # noqa: S102 - our own snippets, for comparison

    def value(self, expression: str) -> str:
        return str(eval(expression, self._namespace))  # noqa: S307 - our own snippets

    def close(self) -> None:
        self._namespace.clear()


class Monty:
    """pydantic-monty: an interpreter of its own for a part of Python, in worker processes."""

    def __init__(self) -> None:
        module = _imported("pydantic_monty", "pydantic-monty")
        self.what: Final = f"pydantic-monty {metadata.version('pydantic-monty')}, a subset of Python"
        self._stack: Final = ExitStack()
        self._pool: Final[Any] = self._stack.enter_context(module.Monty())

    def session(self, answer: HostFunction) -> PeerSession:
        return _MontySession(self._pool, answer)

    def close(self) -> None:
        self._stack.close()


class _MontySession:
    ask = ASK

    def __init__(self, pool: Any, answer: HostFunction) -> None:
        self._stack = ExitStack()
        # Its default of 1,000 host calls a session is too few to measure one.
        self._session = self._stack.enter_context(pool.checkout(limits={"max_suspensions": 10**9}))
        self._lookup = {ASK: answer}

    def define(self, source: str) -> None:
        self._session.feed_run(source, external_lookup=self._lookup)

    def value(self, expression: str) -> str:
        return str(self._session.feed_run(expression, external_lookup=self._lookup))

    def close(self) -> None:
        self._stack.close()


class Pyodide:
    """DSPy's PythonInterpreter: CPython as Pyodide, in a Deno process for each session."""

    def __init__(self) -> None:
        if shutil.which("deno") is None:
            raise PeerAbsent("deno is not on the PATH")
        self._module: Final = _imported("dspy.primitives.python_interpreter", "dspy")
        self.what: Final = f"Deno and Pyodide through dspy {metadata.version('dspy')}, a process a session"

    def session(self, answer: HostFunction) -> PeerSession:
        return _PyodideSession(self._module, answer)

    def close(self) -> None:
        """Nothing is shared."""


class _PyodideSession:
    ask = ASK

    def __init__(self, module: Any, answer: HostFunction) -> None:
        def ask(prompt: str) -> str:
            return answer(prompt)

        self._interpreter = module.PythonInterpreter(tools={ASK: ask})

    def define(self, source: str) -> None:
        self._interpreter.execute(source)

    def value(self, expression: str) -> str:
        return str(self._interpreter.execute(expression))

    def close(self) -> None:
        self._interpreter.shutdown()


# By the name in the table; each raises PeerAbsent where it is not installed.
PEERS: Final[dict[str, Callable[[], Peer]]] = {"native": Native, "monty": Monty, "pyodide": Pyodide}


def _imported(module: str, distribution: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PeerAbsent(f"{distribution} is not installed ({error})") from error
