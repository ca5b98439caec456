"""``rlm-wasm guest image``: a guest with packages in it, under a name that policies choose."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click

from rlm_wasm.artifacts.guest import Guest
from rlm_wasm.artifacts.guest_sources import guest_dir
from rlm_wasm.artifacts.image import PackagesImage, checked_image_name, packages_text
from rlm_wasm.artifacts.installed import find_guest, lock_file
from rlm_wasm.artifacts.paths import cache_dir
from rlm_wasm.cli import output
from rlm_wasm.cli.build_progress import build_progress
from rlm_wasm.errors import UsageError
from rlm_wasm.guestbuild.progress import BuildProgress
from rlm_wasm.guestbuild.sources import SourceStore
from rlm_wasm.guestbuild.stage_cache import StageCache
from rlm_wasm.images.lock import BASE_GUEST, ImageLock, is_module, lock_text, read_lock
from rlm_wasm.images.making import WAIT_SECONDS_MAX, MadeImage, make_image, store_files
from rlm_wasm.images.offered import offer
from rlm_wasm.images.resolution import checked_wanted, resolve

# Packages that are taken from sources are those of this image.
_BUILT_IN = "data"


@click.command("image")
@click.argument("name")
@click.option(
    "--with", "wanted", multiple=True, metavar="PACKAGE",
    help="A package, with a version if need be; what it needs comes too. May be repeated.",
)  # fmt: skip
@click.option(
    "--preload", multiple=True, metavar="MODULE",
    help="A module that is imported before the image is taken. May be repeated.",
)  # fmt: skip
@click.option(
    "--lock", "lock_path", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
    help="Make it from exactly the files in this lock.",
)  # fmt: skip
@click.option(
    "--write-lock", "written", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Write down which files it is made of, for --lock.",
)  # fmt: skip
@click.option(
    "--sources", type=click.Path(exists=True, file_okay=False, path_type=Path), envvar="RLM_WASM_SOURCES",
    help="A folder to look for pinned files in before anything is downloaded (or RLM_WASM_SOURCES).",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Make it again although nothing has changed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document about the result.")
def image(
    name: str,
    wanted: tuple[str, ...],
    preload: tuple[str, ...],
    lock_path: Path | None,
    written: Path | None,
    sources: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Make the image NAME: the guest with packages of pure Python in it.

    `data` is built in: YAML, dates, tables, HTML, Markdown, templates, Excel and PDF. Any other takes its
    packages from --with or --lock. Choose an image by `sandbox.image` in a policy, or with --image.
    """
    # Here and not above: wasmtime is needed only where the guest itself runs.
    from rlm_wasm.images.sealing import seal_packages

    started = time.monotonic()
    checked_image_name(name)
    # First what is wrong with the arguments: for the lock of the builds one may wait for half an hour.
    stated = _stated(name, wanted, preload, lock_path)
    if written is not None and not written.absolute().parent.is_dir():
        raise UsageError(f"--write-lock: there is no folder {str(written.absolute().parent)!a}")
    guest = find_guest()
    store = SourceStore(cache_dir() / "downloads", local=sources)
    with (
        build_progress() as progress,
        StageCache(cache_dir() / "build", progress).locked(WAIT_SECONDS_MAX),  # that of the downloads too
    ):
        lock, lock_sha256 = stated or (_resolved(wanted, preload, guest, store, progress), "")
        made = make_image(
            guest, name, lock, store, seal_packages, progress, lock_sha256=lock_sha256, force=force
        )
    if written is not None:
        written.write_text(lock_text(lock), "utf-8")
    _tell(made, int((time.monotonic() - started) * 1000), as_json)


def _stated(
    name: str, wanted: Sequence[str], preload: tuple[str, ...], lock_path: Path | None
) -> tuple[ImageLock, str] | None:
    """Return what a lock says that the image is made of, and its hash if it is one of this program's.

    None: packages are named, and which files they come from is to be asked for.
    """
    own = lock_file(guest_dir(), name)
    if own.is_file():
        if wanted or preload or lock_path is not None:
            raise UsageError(f"the image {name} is built in: choose another name for one of your own")
        lock, text = read_lock(own)
        return lock, hashlib.sha256(text).hexdigest()
    if (lock_path is None) == (not wanted):
        raise UsageError(
            f"the image {name} needs packages: --with PACKAGE, once or several times, or --lock FILE"
        )
    if lock_path is not None:
        if preload:
            raise UsageError("a lock says itself what is imported: --preload goes with --with")
        return read_lock(lock_path)[0], ""
    for package in wanted:
        checked_wanted(package)
    for module in preload:
        if not is_module(module):
            raise UsageError(f"--preload: {module!a} is not the name of a module")
    return None


def _resolved(
    wanted: Sequence[str],
    preload: tuple[str, ...],
    guest: Guest,
    store: SourceStore,
    progress: BuildProgress,
) -> ImageLock:
    progress.begin("resolve", "asking pip for wheels of pure Python")
    known, _ = read_lock(lock_file(guest_dir(), _BUILT_IN))
    series = ".".join(guest.facts.cpython.split(".")[:2])
    with tempfile.TemporaryDirectory() as offers, tempfile.TemporaryDirectory() as folder:
        offered = offer(known.packages, store, Path(offers), progress.note)
        packages, left_out = resolve(wanted, series, Path(offers), offered, Path(folder))
        store_files(packages, store, Path(folder))
    for package in left_out:
        progress.note(f"{package} is left out: the guest has it itself")
    progress.end("resolve")
    return ImageLock(BASE_GUEST, preload, packages)


def _tell(made: MadeImage, wall_ms: int, as_json: bool) -> None:
    manifest = made.image.manifest
    if as_json:
        output.document(describe_image(made.image) | {"reused": made.reused, "wall_ms": wall_ms})
        return
    how = "is up to date" if made.reused else f"has {len(manifest.packages)} packages"
    click.echo(f"the image {manifest.name} {how}: {packages_text(manifest.packages)}")


def show_image(image: PackagesImage, *, as_json: bool) -> None:
    """Print what is in an image."""
    document = describe_image(image)
    if as_json:
        output.document(document)
        return
    manifest = image.manifest
    for name in ("image", "image_sha256", "image_bytes"):
        click.echo(f"{name}: {document[name]}")
    click.echo(f"preload ({len(manifest.preload)}): {', '.join(manifest.preload)}")
    click.echo(f"packages ({len(manifest.packages)}):")
    for package in manifest.packages:
        told = f"{package.name} {package.version} ({package.licence}), {package.file}"
        click.echo(f"  {output.clean(told)}")


def describe_image(image: PackagesImage) -> dict[str, object]:
    """Return what is in an image, for a document."""
    manifest = image.manifest
    return {
        "image": manifest.name,
        "image_sha256": manifest.image_sha256,
        "image_bytes": manifest.image_bytes,
        "built_in": bool(manifest.lock_sha256),
        "preload": list(manifest.preload),
        "packages": [
            {
                "name": package.name,
                "version": package.version,
                "file": package.file,
                "bytes": package.bytes,
                "sha256": package.sha256,
                "licence": package.licence,
            }
            for package in manifest.packages
        ],
    }
