"""``rlm-wasm policy``: begin a policy file, check it, and show what is in force."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click

from rlm_wasm.cli import output
from rlm_wasm.cli.exit_codes import ExitCode
from rlm_wasm.errors import PolicyError, UsageError
from rlm_wasm.policy.builtin import builtin_names
from rlm_wasm.policy.extends import extended_path
from rlm_wasm.policy.inherit import InheritedDocument, read_inherited
from rlm_wasm.policy.model import Policy
from rlm_wasm.policy.render import to_toml, with_comments
from rlm_wasm.policy.starter import starter


@click.group("policy")
def policy() -> None:
    """Begin policy files, check them, and show the limits in force."""


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


@policy.command("init")
@click.argument("file", default="policy.toml", metavar="[FILE|-]")
@click.option(
    "--extends", "base", type=click.Choice(builtin_names()), default="strict", show_default=True,
    help="The built-in policy that it changes.",
)  # fmt: skip
def init(file: str, base: str) -> None:
    """Write a short policy FILE (policy.toml, or - for stdout): what is most often changed, with comments."""
    text = starter(base)
    if file == "-":
        click.echo(text, nl=False)
        return
    try:
        with open(file, "x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        hint = "name another one, or remove it first"
        raise UsageError(f"{output.clean(file)} is there already, and is left as it is", hint=hint) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else "not a usable path"
        raise UsageError(f"cannot write {output.clean(file)}: {reason}") from error
    output.note(f"wrote {file}; `rlm-wasm policy show {file}` shows all that it comes to")


@policy.command("show")
@click.argument("name", metavar="NAME|FILE")
@click.option("--plain", is_flag=True, help="Without comments: the text whose digest event logs state.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of TOML.")
def show(name: str, plain: bool, as_json: bool) -> None:
    """Show every limit and grant of a built-in policy (by NAME) or of a FILE, with what it inherits."""
    try:
        document = read_inherited(extended_path(name, Path()))
        found = Policy.from_mapping(document.data, origin=document.origin, places=document.places)
    except PolicyError as exc:
        _report(exc)
        raise click.exceptions.Exit(ExitCode.USAGE) from exc
    if as_json:
        output.document(found.to_mapping())
    elif plain:
        click.echo(to_toml(found), nl=False)
    else:
        click.echo("\n".join(_heading(name, document, found)))
        click.echo(with_comments(found, document.remarks), nl=False)


def _heading(name: str, document: InheritedDocument, found: Policy) -> list[str]:
    chain = "".join(f", which extends {ascii(each)[1:-1]}" for each in document.chain)
    digest = hashlib.sha256(to_toml(found).encode()).hexdigest()
    return [f"# In force with {ascii(name)[1:-1]}{chain}.", f"# policy_sha256 of its runs: {digest}", ""]


def _report(error: PolicyError) -> None:
    # No "error:" in front: editors and CI systems turn "file:line: message" into links.
    output.note(error.message)
    if error.hint:
        output.note(f"hint: {error.hint}")
