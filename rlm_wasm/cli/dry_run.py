"""``--dry-run`` of `ask` and `run`: what a question may use and cost at most, with nobody asked."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rlm_wasm.cli import output
from rlm_wasm.cli.exit_codes import ExitCode
from rlm_wasm.cli.image_option import with_image
from rlm_wasm.cli.who_answers import who_answers

if TYPE_CHECKING:
    from rlm_wasm.api.inputs import Inputs
    from rlm_wasm.cli.question import GivenQuestion
    from rlm_wasm.policy.model import Policy


def tell_bound(given: GivenQuestion) -> int:
    """Say what the run may come to at most, and return the exit status.

    Raises what the run itself would raise before it asks: PolicyError, UsageError, InputError. A key or a
    guest that is missing is not looked for.
    """
    from rlm_wasm.api.arguments import check_question
    from rlm_wasm.engine.contexts import named_contexts
    from rlm_wasm.replay.recording import Recording

    taken = who_answers(given)
    policy = with_image(taken.policy, given.image)
    check_question(given.question)
    if given.answers_file is not None:
        Recording.open(given.answers_file).answers()
    given.guidance(policy)
    given.output(policy)
    inputs = given.read_inputs(policy)
    named_contexts(inputs)
    output.note(taken.line())
    if given.as_json:
        output.document(_document(policy) | inputs.as_report())
    else:
        output.untrusted("\n".join(_lines(policy, inputs)), newline=True)
    return int(ExitCode.DONE)


def _document(policy: Policy) -> dict[str, Any]:
    bound, models = policy.run_bound(), policy.models
    return {
        "dry_run": True,
        "at_most": {**bound.at_most, "wall_ms": bound.wall_ms},
        "bounded_by": {name: list(keys) for name, keys in bound.keys.items()},
        "models": {"root": models.root, "sub": models.sub, "child": list(models.child)},
        "prices": {spec: asdict(price) for spec, price in policy.prices_in_force().items()},
    }


def _lines(policy: Policy, inputs: Inputs) -> list[str]:
    bound = policy.run_bound()
    rows = {name.replace("_", " "): f"{most:,}" for name, most in bound.at_most.items()}
    names = dict(zip(rows, bound.at_most, strict=True))
    rows["cost microdollars"] = f"${bound.cost_microdollars / 1e6:,.6f}"
    rows["wall"], names["wall"] = f"{bound.wall_ms / 1000:,g} s", "wall_ms"
    read = [f"input {item.name}: {item.kind}, from {item.source}" for item in inputs.items_read]
    most = [
        f"  {name.removesuffix(' microdollars'):18}{text:>22}  {', '.join(bound.keys[names[name]])}"
        for name, text in rows.items()
    ]
    return [*read, "at most:", *most, "nobody was asked"]
