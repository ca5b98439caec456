"""Interrupts in the middle of a download, in real processes, against a mirror that apt is configured for."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlm_wasm.guestbuild.manifest import load_manifest
from rlm_wasm.guestbuild.mirrors import Mirror
from tests.unit.guestbuild.support import PATHS, Site, guest_folder, serve

CONTENT = bytes(range(256)) * 4096
PROGRAM = """
import sys
from pathlib import Path
from rlm_wasm.guestbuild.build import build_guest
from rlm_wasm.guestbuild.manifest import load_manifest
from rlm_wasm.guestbuild.progress import Silent
from rlm_wasm.guestbuild.recipe import recipes
from rlm_wasm.guestbuild.build_context import plans_only

class Telling(Silent):
    def advance(self, stage, fraction):
        print(fraction, flush=True)

candidates = list(recipes(load_manifest(Path(sys.argv[1])), "3.14"))
build_guest(candidates, None, plans_only, cache=Path(sys.argv[2]), jobs=1, progress=Telling())
"""


pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="there is no apt here")


def test_a_build_interrupted_in_a_download_goes_on_from_there(tmp_path: Path) -> None:
    (tmp_path / "guest").mkdir()
    folder, cache = guest_folder(tmp_path / "guest"), tmp_path / "cache"
    manifest = folder / "manifest.toml"
    small, large = hashlib.sha256(b"python").hexdigest(), hashlib.sha256(CONTENT).hexdigest()
    text = manifest.read_text().replace(small, large).replace("bytes = 6", f"bytes = {len(CONTENT)}")
    manifest.write_text(text)
    with serve() as site:
        site.files.update({**PATHS, "/pool/main/p/python.tar.xz": CONTENT})
        site.stalling = "/pool/main/p/python.tar.xz"
        process = start(tmp_path, site, folder, cache)
        assert process.stdout is not None
        assert any(float(line) > 0.1 for line in process.stdout)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGINT
        assert "KeyboardInterrupt" in errors
        (part,) = (cache / "downloads").glob("*-python.tar.xz.part")
        have = part.stat().st_size
        assert 0 < have <= len(CONTENT) // 2
        assert [p.name for p in (cache / "build").iterdir()] == ["lock"]

        site.stalling = ""
        site.requests.clear()
        _, errors = start(tmp_path, site, folder, cache).communicate()
        assert site.requests[0] == ("/pool/main/p/python.tar.xz", f"bytes={have}-")
        (kept,) = (cache / "downloads").glob("*-python.tar.xz")
        assert kept.read_bytes() == CONTENT
        # These bytes are no tarball: the build went on to unpacking and says what is wrong.
        assert "is damaged" in errors or "is not a Debian package" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_command_says_that_it_can_be_continued(tmp_path: Path, number: signal.Signals) -> None:
    with serve() as site:
        file = load_manifest().toolchains[0].packages[0]
        path = "/" + Mirror("").url(str(file.pool))
        site.files[path], site.stalling = bytes(file.size_bytes), path
        arguments = ["-m", "rlm_wasm.cli.main", "guest", "build", "--jobs", "1"]
        process = popen(tmp_path, site, arguments, RLM_WASM_CACHE=str(tmp_path / "cache"))
        assert process.stderr is not None
        assert process.stderr.readline().startswith("download: fetching CPython")
        site.asked.wait(30)
        process.send_signal(number)
        output, errors = process.communicate()
    assert process.returncode == 130
    assert "what is finished is kept, and the same command continues from there" in errors
    assert output == ""


def start(tmp_path: Path, site: Site, folder: Path, cache: Path) -> subprocess.Popen[str]:
    return popen(tmp_path, site, ["-c", PROGRAM, str(folder), str(cache)])


def popen(tmp_path: Path, site: Site, arguments: list[str], **env: str) -> subprocess.Popen[str]:
    """Start Python with an apt that has exactly one mirror, `site`."""
    configuration = tmp_path / "apt.conf"
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] {site.root} stable main\n")
    configuration.write_text(
        f'Dir::Etc::sourcelist "{tmp_path}/sources.list";\nDir::Etc::sourceparts "/dev/null";\n'
        f'Dir::State::lists "{tmp_path}/lists";\n'
    )
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3],
        env={**os.environ, "APT_CONFIG": str(configuration), "PYTHONDONTWRITEBYTECODE": "1", **env},
    )  # fmt: skip
