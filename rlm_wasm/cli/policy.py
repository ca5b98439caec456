"""``rlm-wasm policy``: check a policy file, and show what is in force."""

from __future__ import annotations

import json
from typing import Final

import click

from rlm_wasm.errors import PolicyError
from rlm_wasm.policy.builtin import builtin_names
from rlm_wasm.policy.model import Policy
from rlm_wasm.policy.render import to_toml

EXIT_POLICY: Final = 2


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
            _suggest(file)
            bad = True
        else:
            click.echo(f"{click.format_filename(file)}: ok")
    if bad:
        raise click.exceptions.Exit(EXIT_POLICY)


@policy.command("show")
@click.argument("name", metavar="NAME|FILE")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of TOML.")
def show(name: str, as_json: bool) -> None:
    """Show every limit and grant of a built-in policy (by NAME) or of a FILE."""
    try:
        found = Policy.open(name)
    except PolicyError as exc:
        _report(exc)
        _suggest(name)
        raise click.exceptions.Exit(EXIT_POLICY) from exc
    click.echo(json.dumps(found.to_mapping(), indent=2) if as_json else to_toml(found), nl=as_json)


def _report(error: PolicyError) -> None:
    # No "error:" in front: editors and CI systems turn "file:line: message" into links.
    click.echo(error.message, err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)


def _suggest(name: str) -> None:
    if "/" not in name and "." not in name:
        click.echo(f"hint: the built-in policies are {', '.join(builtin_names())}", err=True)
