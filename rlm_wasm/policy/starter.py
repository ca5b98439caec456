"""The file that `rlm-wasm policy init` writes: what is most often changed, each key with a reason to."""

from __future__ import annotations

from typing import Final

from rlm_wasm.policy.model import Policy

_TEXT: Final = """\
# What runs under this policy may use and do: all that "{base}" says, but for what stands here.
# `rlm-wasm policy show FILE` shows all of it, `rlm-wasm policy check FILE` what is wrong, by line.
# A line that begins with "#" is not in force: take the mark away to change its key.

# "strict" for code that is hostile until proven otherwise; "container" is the same where the machine
# refuses new namespaces, as most containers do (`rlm-wasm doctor --policy` names the one that runs here);
# "standard" for more room. Or a file, relative to this one.
extends = "{base}"

[models]
# The model that writes code, and the one that code asks with llm_query: often a cheaper one.
#root = "{root}"
#sub = "{sub}"

[budget]
# What one run may cost, in millionths of a dollar, and how many model calls it may make.
#cost_microdollars_max = {cost}
#calls_max = {calls}

[run]
# How long a run may take, in milliseconds, and how many times its model may write code.
#wall_ms_max = {wall}
#turns_max = {turns}

[events]
# true: event logs hold prompts and answers, as `rlm-wasm replay` needs; they may hold what the context holds.
#texts = true

# An endpoint of your own (docs/providers.md: other kinds), and what its models cost in micro-dollars for a
# million tokens.
#[providers.openai]
#base_url = "http://localhost:8000/v1"
# The NAME of the environment variable that holds the key; "" where none is needed.
#api_key_env = ""

#[models.prices."openai:my-model"]
#input_microdollars_per_mtok = 0
#output_microdollars_per_mtok = 0
"""


def starter(base: str) -> str:
    """Return the text of a file that extends the built-in policy `base`."""
    policy = Policy.builtin(base)
    return _TEXT.format(
        base=base,
        root=policy.models.root,
        sub=policy.models.sub,
        cost=f"{policy.budget.cost_microdollars_max:_}",
        calls=policy.budget.calls_max,
        wall=f"{policy.run.wall_ms_max:_}",
        turns=policy.run.turns_max,
    )
