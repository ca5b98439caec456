"""The guest's C code for files, compiled once for this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.native_files import compile_driver


@pytest.fixture(scope="session")
def native_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver's program."""
    return compile_driver(tmp_path_factory.mktemp("native-files"))
