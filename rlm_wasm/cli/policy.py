"""``rlm-wasm policy``: check a policy file, and show what is in force."""

from __future__ import annotations

import click

from rlm_wasm.cli import output
from rlm_wasm.cli.exit_codes import ExitCode
from rlm_wasm.errors import PolicyError
from rlm_wasm.policy.model import Policy
from rlm_wasm.policy.render import to_toml


@click.group("policy")
def policy() -> None:
    """Check policy files and show the limits in force."""


@policy.command("check")
@click.argument("files", metavar="NAME|FILE...", nargs=-1, required=True)
def check(files: tuple[str, ...]) -> None:
    """Check policy FILEs, or built-in policies by name, and point at each line that is wrong.

    Exits with 0 if every file is a valid policy, else with 2.
    """
    bad = False
    for file in files:
        try:
            Policy.open(file)
        except PolicyError as exc:
            _report(exc)
            bad = True
        else:
            click.echo(f"{click.format_filename(file)}: ok")
    if bad:
        raise click.exceptions.Exit(ExitCode.USAGE)


@policy.command("show")
@click.argument("name", metavar="NAME|FILE")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of TOML.")
def show(name: str, as_json: bool) -> None:
    """Show every limit and grant of a built-in policy (by NAME) or of a FILE."""
    try:
        found = Policy.open(name)
    except PolicyError as exc:
        _report(exc)
        raise click.exceptions.Exit(ExitCode.USAGE) from exc
    if as_json:
        output.document(found.to_mapping())
    else:
        click.echo(to_toml(found), nl=False)


def _report(error: PolicyError) -> None:
    # No "error:" in front: editors and CI systems turn "file:line: message" into links.
    output.note(error.message)
    if error.hint:
        output.note(f"hint: {error.hint}")
