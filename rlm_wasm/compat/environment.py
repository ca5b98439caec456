"""The environment of an RLM: a session of ours, whichever place on this machine was named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rlm_wasm.errors import UsageError

# Places on the machine that the program runs on: a session takes theirs.
_HERE: Final = ("local", "ipython", "docker")
_ELSEWHERE: Final = ("modal", "prime", "daytona", "e2b")


def setup_code_of(environment: object, environment_kwargs: object) -> str | None:
    """Return the code that each session is to begin with, or None.

    Raises:
        UsageError: the environment is another machine, or an argument has no counterpart.
    """
    if environment in _ELSEWHERE:
        raise UsageError(
            f"environment={environment!r} runs code on another machine; here it runs in a locked-down "
            "process of this one",
            hint="leave the argument out",
        )
    if environment not in _HERE:
        raise UsageError(f"there is no environment {environment!a}", hint=f"there are: {', '.join(_HERE)}")
    if environment_kwargs is not None and not isinstance(environment_kwargs, Mapping):
        raise UsageError(f"environment_kwargs is a dict, not a {type(environment_kwargs).__name__}")
    given = dict(environment_kwargs or {})
    setup = given.pop("setup_code", None)
    if given:
        raise UsageError(
            f"environment_kwargs[{sorted(map(str, given))[0]!r}] has no counterpart",
            hint="there is setup_code; what code may use is said by a policy, RLM(policy=…), and packages "
            "are an image of it (`sandbox.image`)",
        )
    if setup is not None and not isinstance(setup, str):
        raise UsageError(f"setup_code is a str, not a {type(setup).__name__}")
    return setup or None
