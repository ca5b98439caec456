"""``rlm-wasm cache``: what is kept on disk, cleaned of what nobody used for long, or shared by all users."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import click

from rlm_wasm.artifacts.cache_contents import AREAS, CacheEntry, cache_contents, prune
from rlm_wasm.artifacts.compile_cache import native_code, path_of_hash, share_code
from rlm_wasm.artifacts.installed import current_guest, find_guest
from rlm_wasm.artifacts.paths import cache_dir
from rlm_wasm.artifacts.shared_cache import DEFAULT, prepare, put_guest, remove_damaged, shared_cache
from rlm_wasm.cli import output
from rlm_wasm.cli.first_use import show_first_use
from rlm_wasm.errors import ArtifactError
from rlm_wasm.guestbuild.manifest import load_manifest
from rlm_wasm.limits import BASE_IMAGE

_DAY_NS: Final = 24 * 3_600 * 10**9
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group("cache")
def cache() -> None:
    """Show, clean and share what is kept on disk: guests, their native code, what builds left."""


@cache.command("info")
@_JSON
def info(as_json: bool) -> None:
    """Show what lies in this user's cache, what each entry is, and what this program uses."""
    known = True
    try:
        current = _current()
    except ArtifactError as error:
        current, known = frozenset(), False
        output.note(f"note: it is not known what this program uses: {error.message}")
    entries = cache_contents(current)
    shared = shared_cache()
    now = time.time_ns()
    if as_json:
        document = {
            "folder": str(cache_dir()),
            "shared_folder": None if shared is None else str(shared.folder),
            "bytes": sum(entry.size_bytes for entry in entries),
            "entries": [_document(entry, now) | ({} if known else {"in_use": None}) for entry in entries],
        }
        output.document(document)
        return
    click.echo(f"{cache_dir()}: {_size(entries)}")
    for area, what in AREAS.items():
        within = [entry for entry in entries if entry.area == area]
        if within:
            click.echo(f"\n{area}: {_size(within)}, each {what}")
        for entry in within:
            click.echo(f"  {_row(entry, now)}")
    if known and not any(entry.current for entry in entries if entry.area == "guests"):
        click.echo("\nno guest of this program's is in it")
    if shared is not None:
        click.echo(f"\nshared by the users of this machine, and not changed by prune: {shared.folder}")


@cache.command("prune")
@click.option(
    "--unused-days", type=click.IntRange(min=0), default=30, show_default=True, metavar="N",
    help="Remove what was not used for N days.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Remove nothing, and say what would go.")
@_JSON
def prune_command(unused_days: int, dry_run: bool, as_json: bool) -> None:
    """Remove from this user's cache what was not used for long; all of it can be made again.

    What this program uses stays, whatever its age, and so does what was used within the hour, or
    what somebody is at work on. Where it cannot be worked out what that is, nothing is removed.
    """
    pruned = prune(_current(), time.time_ns(), unused_days * _DAY_NS, dry_run=dry_run)
    if as_json:
        now = time.time_ns()
        document = {
            "dry_run": dry_run,
            "bytes": sum(entry.size_bytes for entry in pruned.removed),
            "removed": [_document(entry, now) for entry in pruned.removed],
            "busy": list(pruned.busy),
        }
        output.document(document)
        return
    for entry in pruned.removed:
        click.echo(f"{entry.area}/{_row(entry, time.time_ns())}")
    click.echo(f"{'would free' if dry_run else 'freed'} {_size(pruned.removed)}")
    for area in pruned.busy:
        output.note(f"note: left {area} alone: another process is at work there")


def _named(context: click.Context, parameter: click.Parameter, folder: str) -> Path:
    """Return the folder; an empty text, as of a variable that is not set, is none, and not this one."""
    if not folder:
        raise click.BadParameter("is empty", context, parameter)
    return Path(folder)


@cache.command("share")
@click.argument("folder", type=click.Path(file_okay=False), callback=_named, default=str(DEFAULT))
@_JSON
def share(folder: Path, as_json: bool) -> None:
    """Put the guest and its native code into FOLDER, for all users of this machine to run.

    For the build of a container's image: run it as root there, and the container as any user. Others may read
    FOLDER and must not be able to write it. It is found in /var/cache/rlm-wasm, or where
    RLM_WASM_SHARED_CACHE says. What of it is damaged is made again, or removed.
    """
    from rlm_wasm.host.compilation import compile_apart

    show_first_use()
    # From this user's own cache: the shared one may be what is to be mended.
    guest = find_guest(shared=False)
    code = guest.read_code()
    native = native_code(code, compile_apart, shared=False)
    shared = prepare(folder)
    made = [put_guest(shared, guest), share_code(shared, code, native)]
    remove_damaged(shared)
    if as_json:
        output.document({"folder": str(shared.folder), "made": [str(path) for path in made]})
        return
    for path in made:
        click.echo(path)
    if shared.folder != DEFAULT:
        output.note(f"it is found where RLM_WASM_SHARED_CACHE={shared.folder} is set")


def _current() -> frozenset[Path]:
    """Return what this program would use of this user's cache, of every image that is built.

    Raises ArtifactError: it cannot be worked out.
    """
    found: set[Path] = set()
    for image in (BASE_IMAGE, *(pin.name for pin in load_manifest().packages)):
        guest = current_guest(image)
        if guest is not None:
            folder, code_sha256 = guest
            found.add(folder)
            if code_sha256:
                found.add(path_of_hash(code_sha256))
    return frozenset(found)


def _document(entry: CacheEntry, now_ns: int) -> dict[str, Any]:
    return {
        "area": entry.area,
        "name": entry.name,
        "what": AREAS[entry.area],
        "path": str(entry.path),
        "bytes": entry.size_bytes,
        "unused_days": _days(entry, now_ns),
        "in_use": entry.current,
        "unfinished": entry.unfinished,
    }


def _row(entry: CacheEntry, now_ns: int) -> str:
    what = "in use" if entry.current else f"used {_days(entry, now_ns)} days ago"
    return f"{entry.name}  {_size([entry])}  {what}{', unfinished' * entry.unfinished}"


def _days(entry: CacheEntry, now_ns: int) -> int:
    return max(0, now_ns - entry.used_ns) // _DAY_NS


def _size(entries: list[CacheEntry] | tuple[CacheEntry, ...]) -> str:
    return f"{sum(entry.size_bytes for entry in entries) / 1e6:.1f} MB"
