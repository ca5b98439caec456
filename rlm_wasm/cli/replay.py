"""``rlm-wasm replay``: repeat a recorded run, and say where it first differs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from rlm_wasm.cli import output
from rlm_wasm.cli.early_interrupt import ready
from rlm_wasm.cli.exit_codes import ExitCode
from rlm_wasm.cli.inputs import InputOptions, input_options, spare_what_is_read
from rlm_wasm.cli.preload import preload_guest

if TYPE_CHECKING:
    from rlm_wasm.policy.model import Policy
    from rlm_wasm.replay.recorded_event import Difference
    from rlm_wasm.replay.replay import Replay

_SHOWN_CHARS: Final = 80
# Enough before the first character that differs to see where it is.
_BEFORE_CHARS: Final = 20


@click.command("replay")
@click.argument("log", metavar="EVENTS.jsonl")
@click.option("--policy", "policy_name", metavar="P", help="Another policy than the recorded one.")
@input_options("An input of the run that is too large for its log.")
@click.option(
    "--snapshot", "snapshot_file", metavar="FILE",
    help="The saved snapshot that the run began from.",
)  # fmt: skip
@click.option(
    "--snapshot-key-env", metavar="NAME",
    help="The environment variable with its key, if not the one that `sandbox.snapshot_key_env` names.",
)  # fmt: skip
@click.option(
    "--events", "events_file", metavar="FILE.jsonl", help="Write the events of the replay to a file."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def replay(
    log: str,
    policy_name: str | None,
    inputs: InputOptions,
    snapshot_file: str | None,
    snapshot_key_env: str | None,
    events_file: str | None,
    as_json: bool,
) -> int:
    """Repeat the run in EVENTS.jsonl with a real guest and its recorded answers, without a key or network.

    The log must hold texts (`texts = true` in [events]). Exits with 0 if every event is the same, with
    1 if one differs.
    """
    if policy_name is not None:
        preload_guest(policy_name)
    import anyio

    from rlm_wasm.api.sandbox import Sandbox
    from rlm_wasm.audit.sink import JsonlSink
    from rlm_wasm.engine.isolation import import_worker
    from rlm_wasm.policy.model import Policy
    from rlm_wasm.replay.recording import Recording
    from rlm_wasm.replay.replay import replay as replay_run

    recording = Recording.open(log)
    policy = recording.policy if policy_name is None else Policy.open(policy_name)
    import_worker(policy)
    ready()
    given = inputs.read_again(policy, {each.name: each.type_name for each in recording.contexts})
    snapshot = None
    if snapshot_file is not None:
        keyed = policy if snapshot_key_env is None else _with_key(policy, snapshot_key_env)
        snapshot = Sandbox(keyed).load_snapshot(snapshot_file, tenant=recording.tenant)
    spare_what_is_read(events_file, log, policy_name, snapshot_file, inputs=given)
    recording.snapshot(snapshot)  # before a file for the events is emptied
    _warn(policy)
    other = None if policy_name is None else policy

    async def main() -> Replay:
        if events_file is None:
            return await replay_run(recording, given, policy=other, snapshot=snapshot)
        with JsonlSink(events_file) as sink:
            return await replay_run(recording, given, policy=other, snapshot=snapshot, sinks=[sink.write])

    found = anyio.run(main)
    if as_json:
        output.document(_document(found))
    else:
        _show(found)
    return int(ExitCode.DONE if found.difference is None else ExitCode.GUEST)


def _with_key(policy: Policy, variable: str) -> Policy:
    """Return the policy with another variable for the key of snapshots."""
    data = policy.to_mapping()
    data["sandbox"] |= {"snapshot_key_env": variable}
    return type(policy).from_mapping(data, origin="--snapshot-key-env")


def _warn(policy: Policy) -> None:
    for key, value, wanted in (
        ("entropy", policy.sandbox.entropy, "seeded"),
        ("clock", policy.sandbox.clock, "virtual"),
    ):
        if value != wanted:
            output.note(
                f"the guest runs with sandbox.{key} = {value!r}: what it sees of it is not in the log; "
                f"record with {wanted!r} for a replay that must be the same"
            )


def _show(found: Replay) -> None:
    difference = found.difference
    if difference is None:
        click.echo(f"the same: {found.events} events of {found.run_id}")
    else:
        recorded, got = _excerpts(difference)
        click.echo(
            f"differs at event {difference.seq} ({output.clean(difference.kind)}), {difference.field}\n"
            f"  recorded: {output.clean(recorded)}\n"
            f"  replayed: {output.clean(got)}"
        )
    if found.ended is not None:
        output.note(found.ended)


def _document(found: Replay) -> dict[str, object]:
    difference = found.difference
    return {
        "same": difference is None,
        "events": found.events,
        "run_id": found.run_id,
        "ended": found.ended,
        "difference": difference
        and {
            "seq": difference.seq,
            "kind": difference.kind,
            "field": difference.field,
            "recorded": difference.expected,
            "replayed": difference.got,
        },
    }


def _excerpts(difference: Difference) -> tuple[str, str]:
    """Return both values, cut to where they part."""
    one, other = difference.expected, difference.got
    start = 0
    if isinstance(one, str) and isinstance(other, str):
        same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
        same = min(len(one), len(other)) if same is None else same
        start = max(0, same - _BEFORE_CHARS)
    return _excerpt(one, start), _excerpt(other, start)


def _excerpt(value: object, start: int) -> str:
    if value is None:
        return "nothing"
    if not isinstance(value, str):
        return ascii(value)[:_SHOWN_CHARS]
    end = start + _SHOWN_CHARS
    return ("…" if start else "") + ascii(value[start:end]) + ("…" if end < len(value) else "")
