"""``rlm-wasm guest``: build the guest from pinned sources, verify what is installed, show what it is."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from rlm_wasm.artifacts.guest import Guest
from rlm_wasm.artifacts.guest_sources import guest_dir
from rlm_wasm.artifacts.image import VARIANTS, checked_image_name, image_hint, image_names
from rlm_wasm.artifacts.installed import find_guest, find_image, image_packages, newest_guest
from rlm_wasm.artifacts.paths import cache_dir
from rlm_wasm.cli import output
from rlm_wasm.cli.build_progress import build_progress
from rlm_wasm.cli.conformance import conformance
from rlm_wasm.cli.image import image, show_image
from rlm_wasm.errors import ArtifactError, UsageError
from rlm_wasm.guestbuild.build import build_guest
from rlm_wasm.guestbuild.keep_training import train_again
from rlm_wasm.guestbuild.manifest import load_manifest
from rlm_wasm.guestbuild.names import guest_names
from rlm_wasm.guestbuild.recipe import DEFAULT_SERIES, recipes
from rlm_wasm.guestbuild.trained import TRAINED_FOLDER, keep_files, kept_files
from rlm_wasm.guestbuild.verify import verify_guest, verify_image
from rlm_wasm.limits import BASE_IMAGE


@click.group("guest")
def guest() -> None:
    """Build, verify and describe the CPython guest."""


guest.add_command(conformance)
guest.add_command(image)


_of_image = click.option(
    "--image", default=BASE_IMAGE, show_default=True, metavar="NAME", help="The guest of this image."
)


_jobs = click.option(
    "--jobs", type=click.IntRange(min=1), metavar="N", help="Compile N files at once (default: one per CPU)."
)
_sources = click.option(
    "--sources", type=click.Path(exists=True, file_okay=False, path_type=Path), envvar="RLM_WASM_SOURCES",
    help="A folder to look for pinned files in before anything is downloaded (or RLM_WASM_SOURCES).",
)  # fmt: skip


@guest.command("build")
@click.option(
    "--python", "series", default=DEFAULT_SERIES, show_default=True, metavar="SERIES",
    help="The CPython series to build, one of those pinned in guest/manifest.toml.",
)  # fmt: skip
@click.option(
    "--image", default=BASE_IMAGE, show_default=True, metavar="NAME",
    help="Build the guest that has a package with C in it, such as numpy, beside the one without.",
)  # fmt: skip
@_jobs
@_sources
@click.option("--force", is_flag=True, help="Link and prepare again although nothing has changed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document about the result.")
def build(
    series: str, image: str, jobs: int | None, sources: Path | None, force: bool, as_json: bool
) -> None:
    """Build the guest from pinned sources; needs a C compiler, nothing else, and no root.

    The first build takes some minutes. After a change of the shim or the guest's Python it takes
    seconds; when nothing has changed, nothing runs. An interrupted build continues where it was.
    """
    if image != BASE_IMAGE and image not in VARIANTS:
        raise UsageError(f"the image {image} is no guest of its own", hint=image_hint(image))
    # Here and not above: wasmtime and the sandbox are needed only where the guest itself runs.
    from rlm_wasm.guestbuild.prepare import prepare_guest
    from rlm_wasm.guestbuild.training_run import train_guest

    started = time.monotonic()
    with build_progress() as progress, _interruptible():
        try:
            built = build_guest(
                list(recipes(load_manifest(), series, image_packages(image))),
                prepare_guest,
                train_guest,
                cache=cache_dir(),
                jobs=jobs or len(os.sched_getaffinity(0)),
                progress=progress,
                sources=sources,
                force=force,
            )
        except KeyboardInterrupt:
            progress.note("interrupted; what is finished is kept, and the same command continues from there")
            raise
    if as_json:
        document = {
            "folder": str(built.folder),
            "recipe": built.recipe_hash,
            "cpython": built.recipe.cpython.version,
            "libraries": {pin.name: release.version for pin, release in built.recipe.libraries},
            "zones": built.recipe.zones.version,
            "packages": {pin.name: pin.version for pin in built.recipe.packages},
            "toolchain": built.recipe.toolchain.name,
            "reused": built.reused,
            "wall_ms": int((time.monotonic() - started) * 1000),
        }
        output.document(document)
    elif built.reused:
        click.echo(f"the guest is up to date: {built.folder}")
    else:
        click.echo(f"built {built.recipe.text}: {built.folder}")


@guest.command("train")
@click.option("--check", is_flag=True, help="Write nothing; exit status 1 if what is kept is something else.")
@_jobs
@_sources
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document about the result.")
def train(check: bool, jobs: int | None, sources: Path | None, as_json: bool) -> None:
    """Train CPython, which takes minutes, and keep what that leaves in guest/trained, for all builds.

    For developers, after a change of what the training is made of: until then each build trains for itself.
    """
    from rlm_wasm.guestbuild.training_run import train_guest

    manifest = load_manifest()
    with build_progress() as progress, _interruptible():
        files = train_again(
            next(recipes(manifest)),
            train_guest,
            cache=cache_dir(),
            jobs=jobs or len(os.sched_getaffinity(0)),
            progress=progress,
            sources=sources,
        )
    kept = kept_files(manifest.folder)
    differ = sorted(name for name, text in files.items() if kept.get(name) != text)
    if not check:
        keep_files(manifest.folder, files)
    folder = manifest.folder / TRAINED_FOLDER
    if as_json:
        output.document({"folder": str(folder), "differ": differ, "written": not check})
    elif not differ:
        click.echo(f"the training left what {folder} has")
    elif check:
        click.echo(f"the training left something else than {folder} has: {', '.join(differ)}")
    else:
        click.echo(f"wrote {', '.join(differ)} into {folder}")
    if check and differ:
        raise SystemExit(1)


@guest.command("verify")
@_of_image
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document about the result.")
def verify(image: str, as_json: bool) -> None:
    """Prove hashes, imports and exports of the guest that is installed, and the hashes of its images."""
    installed = newest_guest(image)
    checks = verify_guest(installed, load_manifest().boundary)
    checks += tuple(verify_image(find_image(installed, name)) for name in image_names(installed))
    if as_json:
        output.document({"folder": str(installed.folder), "verified": list(checks)})
        return
    for check in checks:
        click.echo(f"ok  {check}")


@guest.command("info")
@_of_image
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def info(image: str, as_json: bool) -> None:
    """Show what the installed guest was made from, and every function that crosses its boundary.

    Of an image that was made of packages, what is in it.
    """
    if image != BASE_IMAGE and image not in VARIANTS:
        show_image(find_image(find_guest(), checked_image_name(image)), as_json=as_json)
        return
    installed = newest_guest(image)
    document = _describe(installed)
    if as_json:
        output.document(document)
        return
    for name, value in document.items():
        if isinstance(value, list):
            click.echo(f"{name} ({len(value)}): {', '.join(value)}")
        else:
            click.echo(f"{name}: {str(value).lower() if isinstance(value, bool) else value}")


def _is_current(installed: Guest) -> bool:
    """Whether this program's sources would give the same guest."""
    try:
        return installed.facts.recipe in guest_names(guest_dir(), installed.facts.packages)
    except (ArtifactError, UsageError):
        return False


def _describe(installed: Guest) -> dict[str, str | int | list[str]]:
    facts = installed.facts
    return {
        "folder": str(installed.folder),
        "recipe": facts.recipe,
        "up_to_date": _is_current(installed),
        "cpython": facts.cpython,
        "packages": list(facts.packages),
        "wasmtime": facts.wasmtime,
        "raw_sha256": facts.raw_sha256,
        "code_sha256": facts.code_sha256,
        "image_sha256": facts.image_sha256,
        "image_bytes": facts.image_bytes,
        "wasi_imports": sum("wasi" in name for name in facts.imports),
        "imports": list(facts.imports),
        "exports": list(facts.exports),
        "images": image_names(installed),
    }


@contextmanager
def _interruptible() -> Iterator[None]:
    """Treat a termination or a closed terminal like Ctrl-C: the compilers are ended with us."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
