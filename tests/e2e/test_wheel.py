"""The wheel as a new user has it: built from the guest that is there, installed where nothing of ours is.

The dependencies are those of the environment that runs the tests, and so no network is needed. Native code is
not compiled again: what this machine's cache has of it is put into the new home, with the key that vouches
for it. The long form, everything from an index and compiled, is in docs/releasing.md.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlm_wasm.artifacts.compile_cache import cache_path, native_code
from rlm_wasm.artifacts.installed import find_guest
from rlm_wasm.artifacts.paths import state_dir
from rlm_wasm.guestbuild.licences import licence_entries
from rlm_wasm.host.compilation import compile_apart
from tests.support.command_line import ROOT, SECONDS_MAX
from tests.support.machine_grade import POLICY_HERE
from tests.support.provider_loopback import KEY, Seen, Write, completion_body, http, loopback_server

pytestmark = pytest.mark.guest
CODE = "```repl\nFINAL(len(context))\n```"
INLINE = ("--inline",) if POLICY_HERE == "standard" else ()


@dataclass(frozen=True)
class NewUser:
    """A home with nothing in it, and the command as the wheel installed it."""

    home: Path
    command: Path
    wheel: Path

    def run(self, *arguments: str | Path, **more: str) -> subprocess.CompletedProcess[bytes]:
        """Run the command in an environment that says nothing but where home is."""
        return subprocess.run(
            [self.command, *map(str, arguments)],
            cwd=self.home, env={"HOME": str(self.home), **more}, stdin=subprocess.DEVNULL,
            capture_output=True, timeout=SECONDS_MAX,
        )  # fmt: skip


def _python(*arguments: str | Path, **more: str) -> None:
    subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT, env={**os.environ, **more}, check=True, timeout=SECONDS_MAX, stdout=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture(scope="module")
def new_user(tmp_path_factory: pytest.TempPathFactory) -> NewUser:
    folder = tmp_path_factory.mktemp("wheel")
    _python("-m", "rlm_wasm.guestbuild.shipping", "--level", "1", folder / "shipped")
    _python(
        "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "dist",
        RLM_WASM_SHIPPED=str(folder / "shipped"), SOURCE_DATE_EPOCH="1700000000",
    )  # fmt: skip
    (wheel,) = (folder / "dist").iterdir()
    _python("-m", "venv", "--without-pip", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    _python("-m", "pip", "--quiet", "--python", python, "install", "--no-deps", "--no-index", wheel)
    packages = next((folder / "venv" / "lib").glob("*/site-packages"))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    home = folder / "home"
    compiled, state = home / ".cache/rlm-wasm/compiled", home / ".local/state/rlm-wasm"
    for made in (compiled, state):
        made.mkdir(mode=0o700, parents=True)
    for parent in (compiled.parent, home / ".cache"):
        parent.chmod(0o700)
    code = find_guest().read_code()
    native_code(code, compile_apart)  # made now, where no other test has wanted it yet
    shutil.copy(cache_path(code), compiled)
    shutil.copy(state_dir() / "machine.key", state)
    return NewUser(home, python.with_name("rlm-wasm"), wheel)


def test_the_wheel_says_whom_it_is_for_and_carries_the_guest_and_every_licence(new_user: NewUser) -> None:
    assert new_user.wheel.name.endswith("-py3-none-manylinux_2_28_x86_64.whl")
    with zipfile.ZipFile(new_user.wheel) as archive:
        names = archive.namelist()
        assert {info.date_time for info in archive.infolist()} == {(2023, 11, 14, 22, 13, 20)}
        modes = {info.external_attr >> 16 & 0o777 for info in archive.infolist()}
        notice = archive.read("rlm_wasm/_shipped/licences/NOTICE.md").decode()
    assert modes <= {0o644, 0o755}
    assert "rlm_wasm/_shipped/guest.zst" in names
    assert [name for name in names if name.endswith((".wasm", ".cwasm", ".img", ".so"))] == []
    licensed = {name.split("/")[3] for name in names if name.startswith("rlm_wasm/_shipped/licences/")}
    assert licensed - {"NOTICE.md"} == licence_entries(ROOT / "guest").keys()
    assert all(entry.name in notice for entry in licence_entries(ROOT / "guest").values())


def test_a_first_cell_and_a_first_question_need_nothing_but_the_wheel(new_user: NewUser) -> None:
    cell = new_user.home / "cell.py"
    cell.write_text("import sqlite3, zoneinfo\nzoneinfo.ZoneInfo('Europe/Paris').key")
    first = new_user.run("exec", "--json", cell)
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["result"] == "'Europe/Paris'"
    assert first.stderr == b"unpacking the guest; this is done once, and takes some seconds\n"
    assert new_user.run("exec", cell).stderr == b""
    about = json.loads(new_user.run("guest", "info", "--json").stdout)
    assert about["up_to_date"]
    assert Path(about["folder"]).is_relative_to(new_user.home)
    assert about["recipe"] == find_guest().facts.recipe

    def answer(seen: Seen, write: Write) -> None:
        write(http("200 OK", completion_body(CODE)))

    with loopback_server() as server:
        server.behaviour = answer
        asked = new_user.run(
            "ask", *INLINE, "How long?", cell,
            OPENAI_BASE_URL=server.url, OPENAI_API_KEY=KEY, OPENAI_MODEL="small",
        )  # fmt: skip
    assert (asked.returncode, asked.stdout) == (0, b"%d\n" % len(cell.read_text())), asked.stderr
