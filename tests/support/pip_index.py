"""All that pip knows of, in a test: a folder. And a source distribution that tells when any of it runs."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest


def pip_index(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make `folder`, and have pip look for files there and nowhere else."""
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def make_sdist(path: Path, trace: Path, *, complete: bool = False) -> Path:
    """Write a source distribution at `path`, arrays 1.0, that makes the file `trace` if any of it runs.

    A complete one brings all that its build needs.
    """
    text = f"open({str(trace)!r}, 'w')\n"
    needs = 'requires = []\nbackend-path = ["."]' if complete else 'requires = ["absent"]'
    system = f'[build-system]\n{needs}\nbuild-backend = "mesonpy"\n'
    files = {
        "pyproject.toml": system,
        "PKG-INFO": "Metadata-Version: 2.1\nName: arrays\nVersion: 1.0\n",
        "mesonpy.py": text,
        "setup.py": text,
    }
    return write_tar(path, {f"arrays-1.0/{name}": content.encode() for name, content in files.items()})


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write an archive of these files, packed if its name says so."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def make_false_pip(folder: Path, trace: Path) -> None:
    """Put a `pip` into `folder` that makes the file `trace` when it is imported."""
    (folder / "pip").mkdir()
    for name in ("__init__.py", "__main__.py"):
        (folder / "pip" / name).write_text(f"open({str(trace)!r}, 'w')\n", encoding="utf-8")
