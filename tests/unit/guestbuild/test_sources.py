"""Getting pinned files, against a real server on loopback."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.guestbuild.manifest import PinnedFile
from rlm_wasm.guestbuild.mirrors import Mirror
from rlm_wasm.guestbuild.sources import SourceStore, SourceUnavailable
from tests.support.pip_index import make_false_pip, make_sdist, pip_index
from tests.unit.guestbuild.support import Site, pin, serve

CONTENT = bytes(range(256)) * 4096
POOL = "pool/main/x/x.tar"


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as running:
        yield running


def store(folder: Path, *roots: str, local: Path | None = None) -> SourceStore:
    return SourceStore(folder, local=local, mirrors=lambda: [Mirror(root) for root in roots])


def part_of(folder: Path, file: PinnedFile) -> Path:
    return folder / f"{file.sha256[:16]}-{file.name}.part"


def test_a_file_comes_from_the_mirror_and_is_kept(tmp_path: Path, site: Site) -> None:
    site.files[f"/{POOL}"] = CONTENT
    here = store(tmp_path, site.root)
    assert here.fetch(pin(CONTENT)).read_bytes() == CONTENT
    assert here.on_hand(pin(CONTENT))
    here.fetch(pin(CONTENT))
    assert len(site.requests) == 1


def test_a_local_file_is_used_without_any_request(tmp_path: Path, site: Site) -> None:
    local = tmp_path / "local"
    local.mkdir()
    (local / "x.tar").write_bytes(CONTENT)
    site.files[f"/{POOL}"] = CONTENT
    here = store(tmp_path / "down", site.root, local=local)
    assert here.on_hand(pin(CONTENT))
    assert here.fetch(pin(CONTENT)).read_bytes() == CONTENT
    assert site.requests == []


def test_a_local_file_with_other_bytes_is_passed_over(tmp_path: Path, site: Site) -> None:
    local = tmp_path / "local"
    local.mkdir()
    (local / "x.tar").write_bytes(CONTENT[::-1])
    site.files[f"/{POOL}"] = CONTENT
    assert store(tmp_path / "down", site.root, local=local).fetch(pin(CONTENT)).read_bytes() == CONTENT


WHEEL = "zones_of_test-1.0-py3-none-any.whl"


def wheel(path: Path) -> bytes:
    """A wheel that pip takes for one, and its bytes."""
    info = "zones_of_test-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("zones_of_test/__init__.py", "raise SystemExit('code of a wheel ran')\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: zones_of_test\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path.read_bytes()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip knows of."""
    return pip_index(tmp_path / "index", monkeypatch)


def test_a_wheel_comes_from_the_index_that_pip_is_set_up_for(tmp_path: Path, index: Path) -> None:
    content = wheel(index / WHEEL)
    file = PinnedFile(hashlib.sha256(content).hexdigest(), len(content), None, (), WHEEL)
    here = store(tmp_path / "down")
    assert here.fetch(file).read_bytes() == content
    (index / WHEEL).unlink()
    assert here.fetch(file).read_bytes() == content


def test_a_wheel_with_other_bytes_is_refused_before_anything_is_kept(tmp_path: Path, index: Path) -> None:
    content = wheel(index / WHEEL)
    file = PinnedFile("f" * 64, len(content), None, (), WHEEL)
    with pytest.raises(SourceUnavailable, match=r"pip \(zones_of_test-1\.0-py3-none-any\.whl\): pip: "):
        store(tmp_path / "down").fetch(file)
    assert not list((tmp_path / "down").iterdir())


def test_a_file_the_mirrors_lack_comes_from_upstream(tmp_path: Path, site: Site) -> None:
    site.files["/ftp/x.tar"] = CONTENT
    file = pin(CONTENT, urls=[f"{site.root}ftp/x.tar"])
    assert store(tmp_path, site.root, f"{site.root}security/").fetch(file).read_bytes() == CONTENT
    assert [path for path, _ in site.requests] == [f"/{POOL}", f"/security/{POOL}", "/ftp/x.tar"]


def test_wrong_bytes_are_thrown_away_and_the_next_origin_is_asked(tmp_path: Path, site: Site) -> None:
    site.files[f"/{POOL}"] = CONTENT[::-1]
    site.files["/ftp/x.tar"] = CONTENT
    file = pin(CONTENT, urls=[f"{site.root}ftp/x.tar"])
    assert store(tmp_path, site.root).fetch(file).read_bytes() == CONTENT


def test_wrong_bytes_everywhere_are_an_error_with_both_hashes(tmp_path: Path, site: Site) -> None:
    site.files[f"/{POOL}"] = CONTENT[::-1]
    with pytest.raises(SourceUnavailable) as caught:
        store(tmp_path, site.root).fetch(pin(CONTENT))
    assert hashlib.sha256(CONTENT[::-1]).hexdigest() in caught.value.message
    assert pin(CONTENT).sha256 in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_a_broken_connection_is_resumed_where_it_stopped(tmp_path: Path, site: Site) -> None:
    site.files[f"/{POOL}"] = CONTENT
    site.break_after = 2
    assert store(tmp_path, site.root).fetch(pin(CONTENT)).read_bytes() == CONTENT
    half, quarter = len(CONTENT) // 2, len(CONTENT) * 3 // 4
    assert [wanted for _, wanted in site.requests] == [None, f"bytes={half}-", f"bytes={quarter}-"]


def test_an_interrupted_download_is_resumed_by_the_next_build(tmp_path: Path, site: Site) -> None:
    site.files[f"/{POOL}"] = CONTENT

    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store(tmp_path, site.root).fetch(pin(CONTENT), interrupt)
    have = part_of(tmp_path, pin(CONTENT)).stat().st_size
    assert 0 < have < len(CONTENT)
    assert store(tmp_path, site.root).fetch(pin(CONTENT)).read_bytes() == CONTENT
    assert site.requests[-1][1] == f"bytes={have}-"


def test_a_server_without_ranges_is_read_from_the_start(tmp_path: Path, site: Site) -> None:
    site.files[f"/{POOL}"] = CONTENT
    site.ranges = False
    part_of(tmp_path, pin(CONTENT)).write_bytes(CONTENT[:1000])
    assert store(tmp_path, site.root).fetch(pin(CONTENT)).read_bytes() == CONTENT
    assert len(site.requests) == 1


@pytest.mark.parametrize("left", [b"garbage", bytes(len(CONTENT)), bytes(len(CONTENT) + 1)])
def test_a_damaged_part_is_fetched_again_from_the_first_byte(tmp_path: Path, site: Site, left: bytes) -> None:
    site.files[f"/{POOL}"] = CONTENT
    part_of(tmp_path, pin(CONTENT)).write_bytes(left)
    assert store(tmp_path, site.root).fetch(pin(CONTENT)).read_bytes() == CONTENT


def test_a_complete_part_needs_no_request(tmp_path: Path, site: Site) -> None:
    part_of(tmp_path, pin(CONTENT)).write_bytes(CONTENT)
    assert store(tmp_path, site.root).fetch(pin(CONTENT)).read_bytes() == CONTENT
    assert site.requests == []


def test_a_kept_file_that_was_damaged_is_fetched_again(tmp_path: Path, site: Site) -> None:
    site.files[f"/{POOL}"] = CONTENT
    here = store(tmp_path, site.root)
    here.fetch(pin(CONTENT)).write_bytes(CONTENT[::-1])
    assert here.fetch(pin(CONTENT)).read_bytes() == CONTENT


def test_a_body_longer_than_the_pin_is_refused(tmp_path: Path, site: Site) -> None:
    site.files[f"/{POOL}"] = CONTENT + b"x"
    with pytest.raises(SourceUnavailable, match=r"longer than the pinned 1048576 bytes"):
        store(tmp_path, site.root).fetch(pin(CONTENT))


def test_a_body_that_never_completes_is_an_error(tmp_path: Path, site: Site) -> None:
    site.files[f"/{POOL}"] = CONTENT[:1000]
    with pytest.raises(SourceUnavailable, match=r"ended after 1000 of 1048576 bytes|HTTP|broke"):
        store(tmp_path, site.root).fetch(pin(CONTENT))


def test_the_error_names_every_origin_its_reason_and_what_to_do(tmp_path: Path, site: Site) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        file = pin(CONTENT, urls=[f"{dead}x.tar"])
        with pytest.raises(SourceUnavailable) as caught:
            store(tmp_path, site.root).fetch(file)
    lines = caught.value.message.splitlines()
    assert lines[0] == f"could not get x.tar (sha256 {file.sha256})"
    assert lines[1].strip() == f"{site.root}{POOL}: HTTP 404 Not Found"
    assert lines[2].strip().startswith(f"{dead}x.tar: ")
    assert "refused" in lines[2]
    assert "RLM_WASM_SOURCES" in str(caught.value.hint)


def test_what_could_not_be_had_is_not_asked_for_again(tmp_path: Path, site: Site) -> None:
    here = store(tmp_path, site.root)
    for _ in range(3):
        with pytest.raises(SourceUnavailable):
            here.fetch(pin(CONTENT))
    assert len(site.requests) == 1


def test_without_any_origin_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match="no origin is configured"):
        store(tmp_path).fetch(pin(CONTENT))


def test_any_of_several_files_will_do(tmp_path: Path, site: Site) -> None:
    site.files["/pool/main/y/y.tar"] = b"other"
    files = [pin(CONTENT), pin(b"other", pool="pool/main/y/y.tar")]
    assert store(tmp_path, site.root).fetch_any(files).read_bytes() == b"other"


def test_a_mirror_on_this_machine_is_read_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "mirror" / POOL).parent.mkdir(parents=True)
    (tmp_path / "mirror" / POOL).write_bytes(CONTENT)
    here = store(tmp_path / "down", f"file:{tmp_path}/mirror/")
    assert here.fetch(pin(CONTENT)).read_bytes() == CONTENT


def test_a_full_disk_is_one_clear_error(tmp_path: Path, site: Site) -> None:
    site.files[f"/{POOL}"] = CONTENT
    part_of(tmp_path, pin(CONTENT)).symlink_to("/dev/full")
    with pytest.raises(GuestBuildError, match="the disk is full: could not write downloads below") as full:
        store(tmp_path, site.root).fetch(pin(CONTENT))
    assert str(tmp_path) in full.value.message
    assert "RLM_WASM_CACHE" in str(full.value.hint)
    assert not isinstance(full.value, SourceUnavailable)


def test_a_file_size_limit_is_reported_as_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(CONTENT)
    program = (
        "import sys; from pathlib import Path\n"
        "from rlm_wasm.guestbuild.sources import SourceStore\n"
        "from tests.unit.guestbuild.support import pin\n"
        "here = Path(sys.argv[1])\n"
        "SourceStore(here / 'down', local=here).fetch(pin((here / 'x.tar').read_bytes()))\n"
    )

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True, text=True, preexec_fn=limit, check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert "GuestBuildError: the disk is full" in done.stderr


def test_a_source_distribution_comes_by_pip_and_nothing_of_it_runs(tmp_path: Path, index: Path) -> None:
    trace = tmp_path / "trace"
    content = make_sdist(index / "arrays-1.0.tar.gz", trace).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    file = PinnedFile(digest, len(content), None, (), sdist="arrays-1.0.tar.gz", backend="mesonpy")
    assert store(tmp_path / "down").fetch(file).read_bytes() == content
    assert not trace.exists()


def test_a_source_distribution_with_other_bytes_is_refused_before_it_is_unpacked(
    tmp_path: Path, index: Path
) -> None:
    trace = tmp_path / "trace"
    content = make_sdist(index / "arrays-1.0.tar.gz", trace).read_bytes()
    file = PinnedFile("f" * 64, len(content), None, (), sdist="arrays-1.0.tar.gz", backend="mesonpy")
    with pytest.raises(SourceUnavailable, match=r"pip \(arrays-1\.0\.tar\.gz\): pip: "):
        store(tmp_path / "down").fetch(file)
    assert not trace.exists()


@pytest.mark.threat("T-270")
def test_pip_is_not_the_one_of_the_current_folder(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "trace"
    make_false_pip(tmp_path, trace)
    monkeypatch.chdir(tmp_path)
    content = wheel(index / WHEEL)
    pins = [PinnedFile(hashlib.sha256(content).hexdigest(), len(content), None, (), WHEEL)]
    content = make_sdist(index / "arrays-1.0.tar.gz", trace).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    pins += [PinnedFile(digest, len(content), None, (), sdist="arrays-1.0.tar.gz", backend="mesonpy")]
    for file in pins:
        assert hashlib.sha256(store(tmp_path / "down").fetch(file).read_bytes()).hexdigest() == file.sha256
    assert not trace.exists()
