"""Getting pinned files from a local folder, apt's mirrors, pip's index or upstream: only their bytes count.

An interrupted download is resumed with a range request. A file is trusted by its hash alone, so a
mirror needs no trust; whatever does not match is thrown away.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shutil
import ssl
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.guestbuild.manifest import PinnedFile
from rlm_wasm.guestbuild.mirrors import Mirror, configured_mirrors
from rlm_wasm.guestbuild.pip import PipFailed, pip_download, pip_download_with_backend
from rlm_wasm.guestbuild.storage import storing

_CHUNK_BYTES: Final = 1 << 18
_TIMEOUT_S: Final = 30
_PIP_SECONDS_MAX: Final = 180
# A connection that broke is taken up again as long as it brought something, this many times.
_RESUMES_MAX: Final = 5

Report = Callable[[int], None]


class SourceUnavailable(GuestBuildError):
    """No origin has the pinned bytes. The message lists each origin and its reason."""


class _Refused(Exception):
    """One origin could not give the file; the text says why."""


class SourceStore:
    """The folder of downloads. `fetch` returns a file whose hash was checked by this very call.

    One process writes there at a time: whoever holds the lock of the stages beside it (`StageCache.locked`).
    """

    def __init__(
        self,
        folder: Path,
        *,
        local: Path | None = None,
        mirrors: Callable[[], Sequence[Mirror]] = configured_mirrors,
    ) -> None:
        self._folder = folder
        self._local = local
        self._find_mirrors = mirrors
        self._mirrors: tuple[Mirror, ...] | None = None
        # What could not be had is not asked for again: a dead network costs its time-outs once.
        self._failed: dict[tuple[str, ...], SourceUnavailable] = {}
        # Two stages that are made at once may ask for the same file.
        self._fetching = threading.Lock()

    def on_hand(self, pin: PinnedFile) -> bool:
        """Whether `fetch` would need no network, judged by name and size alone."""
        return self._has_size(self._path(pin), pin) or any(
            self._has_size(path, pin) for path in self._local_paths(pin)
        )

    def fetch(self, pin: PinnedFile, report: Report = lambda count: None) -> Path:
        """Return a verified copy; `report` is told how many bytes have arrived.

        Raises:
            SourceUnavailable: no origin has these bytes. GuestBuildError: they cannot be stored.
        """
        return self.fetch_any([pin], report)

    def fetch_any(self, pins: Sequence[PinnedFile], report: Report = lambda count: None) -> Path:
        """Like `fetch`, for files any of which will do."""
        with self._fetching:
            return self._fetch_any(pins, report)

    def _fetch_any(self, pins: Sequence[PinnedFile], report: Report) -> Path:
        identity = tuple(pin.sha256 for pin in pins)
        if identity in self._failed:
            raise self._failed[identity]
        reasons: list[str] = []
        with storing("downloads", self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for pin in pins:
                if self._kept(pin):
                    report(pin.size_bytes)
                    return self._path(pin)
            for pin in pins:
                for origin, get in self._origins(pin, report):
                    try:
                        self._get(get, pin)
                        return self._path(pin)
                    except _Refused as refusal:
                        reasons.append(f"{origin}: {refusal}")
        listed = "".join(f"\n  {reason}" for reason in reasons) or "\n  no origin is configured"
        wanted = " or ".join(f"{pin.name} (sha256 {pin.sha256})" for pin in pins)
        self._failed[identity] = SourceUnavailable(
            f"could not get {wanted}{listed}",
            hint="put the file into a folder and name it with --sources or RLM_WASM_SOURCES, or set up "
            "apt's sources for a Debian mirror and try again; what was downloaded is kept",
        )
        raise self._failed[identity]

    def fetch_wheels(self, pins: Sequence[PinnedFile], python: str) -> None:
        """Have pip fetch all wheels of pure Python that are missing, at once; `fetch` says what is wrong.

        `python` is the version that they are for.
        """
        missing = [pin for pin in pins if pin.wheel is not None and not self.on_hand(pin)]
        if not missing:
            return
        with tempfile.TemporaryDirectory() as folder:
            with contextlib.suppress(_Refused):  # each alone then, and told
                download_wheels([(str(pin.wheel), pin.sha256) for pin in missing], Path(folder), python)
            for pin in missing:
                if (path := Path(folder, str(pin.wheel))).is_file():
                    self.keep(pin, path)

    def keep(self, pin: PinnedFile, path: Path) -> None:
        """Keep a copy of a file that is here, as if it had been fetched.

        Raises:
            GuestBuildError: it is not the pinned one, or cannot be stored.
        """
        with storing("downloads", self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                self._get(lambda: self._copy(path, pin), pin)
            except _Refused as refusal:
                raise GuestBuildError(f"{path}: {refusal}") from refusal

    def _path(self, pin: PinnedFile) -> Path:
        return self._folder / f"{pin.sha256[:16]}-{pin.name}"

    def _part(self, pin: PinnedFile) -> Path:
        path = self._path(pin)
        return path.with_name(path.name + ".part")

    def _local_paths(self, pin: PinnedFile) -> list[Path]:
        if self._local is None:
            return []
        return [path for name in pin.names if (path := self._local / name).is_file()]

    def _has_size(self, path: Path, pin: PinnedFile) -> bool:
        try:
            return path.stat().st_size == pin.size_bytes
        except OSError:
            return False

    def _kept(self, pin: PinnedFile) -> bool:
        path = self._path(pin)
        if not path.exists():
            return False
        if hash_file(path) == pin.sha256:
            return True
        path.unlink()
        return False

    def _origins(self, pin: PinnedFile, report: Report) -> Iterable[tuple[str, Callable[[], None]]]:
        for path in self._local_paths(pin):
            yield str(path), lambda path=path: self._copy(path, pin)  # type: ignore[misc]
        if pin.pool is not None:
            if self._mirrors is None:
                self._mirrors = tuple(self._find_mirrors())
            for mirror in self._mirrors:
                url = mirror.url(pin.pool)
                yield url, lambda url=url, proxy=mirror.proxy: self._download(url, proxy, pin, report)  # type: ignore[misc]
        if pin.wheel is not None:
            yield f"pip ({pin.wheel})", lambda: self._copy_wheel(pin)
        if pin.sdist is not None:
            yield f"pip ({pin.sdist})", lambda: self._copy_sdist(pin)
        for url in pin.urls:
            yield url, lambda url=url: self._download(url, None, pin, report)  # type: ignore[misc]

    def _copy(self, path: Path, pin: PinnedFile) -> None:
        if not self._has_size(path, pin):
            raise _Refused(f"has {path.stat().st_size} bytes, not {pin.size_bytes}")
        self._part(pin).unlink(missing_ok=True)
        shutil.copyfile(path, self._part(pin))

    def _copy_wheel(self, pin: PinnedFile) -> None:
        """Have pip fetch the wheel from the index that it is set up for. No code of a wheel runs."""
        assert pin.wheel is not None
        with tempfile.TemporaryDirectory() as folder:
            download_wheel(pin.wheel, pin.sha256, Path(folder))
            self._copy(Path(folder, pin.wheel), pin)

    def _copy_sdist(self, pin: PinnedFile) -> None:
        assert pin.sdist is not None
        with tempfile.TemporaryDirectory() as folder:
            download_sdist(pin.sdist, pin.backend, pin.sha256, Path(folder))
            self._copy(Path(folder, pin.sdist), pin)

    def _download(self, url: str, proxy: str | None, pin: PinnedFile, report: Report) -> None:
        if url.startswith("file:/"):
            path = Path("/" + url.removeprefix("file:").lstrip("/"))
            if not path.is_file():
                raise _Refused("no such file")
            self._copy(path, pin)
            return
        for _ in range(_RESUMES_MAX):
            before = _size(self._part(pin))
            problem = self._download_once(url, proxy, pin, report)
            if problem is None:
                return
            if _size(self._part(pin)) <= before:
                raise _Refused(problem)
        raise _Refused("the connection broke again and again")

    def _download_once(self, url: str, proxy: str | None, pin: PinnedFile, report: Report) -> str | None:
        """Append to the part file; return None when it is complete, else why it is not."""
        part = self._part(pin)
        start = _size(part)
        if start == pin.size_bytes:
            return None  # whether it is the right one, its hash will say
        if start > pin.size_bytes:
            part.unlink()
            start = 0
        # The opener below knows http and https only.
        request = urllib.request.Request(url, headers={"User-Agent": "rlm-wasm"})  # noqa: S310
        if start:
            request.add_header("Range", f"bytes={start}-")
        try:
            with _opener(proxy).open(request, timeout=_TIMEOUT_S) as response:
                resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(
                    f"bytes {start}-"
                )
                with part.open("ab" if resumed else "wb") as stream:
                    return _receive(response, stream, start if resumed else 0, pin, report)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:
                part.unlink(missing_ok=True)
            return f"HTTP {error.code} {error.reason}"
        except urllib.error.URLError as error:
            return str(error.reason)
        except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            return f"the connection broke: {error or type(error).__name__}"

    def _get(self, get: Callable[[], None], pin: PinnedFile) -> None:
        resumed = _size(self._part(pin)) > 0
        get()
        try:
            self._accept(pin)
        except _Refused:
            if not resumed:
                raise
            # What was there before may be to blame: once more, from the first byte.
            get()
            self._accept(pin)

    def _accept(self, pin: PinnedFile) -> None:
        part = self._part(pin)
        found = hash_file(part)
        if found != pin.sha256:
            part.unlink()
            raise _Refused(f"the file's sha256 is {found}, not the pinned one")
        os.replace(part, self._path(pin))


def download_wheel(wheel: str, sha256: str, folder: Path) -> None:
    """Put the wheel of this name into `folder`, by the pip of the running Python; pip checks its hash."""
    download_wheels([(wheel, sha256)], folder)
    if not (folder / wheel).is_file():
        raise _Refused("pip: it brought another file")


def download_wheels(wheels: Sequence[tuple[str, str]], folder: Path, python: str | None = None) -> None:
    """Put wheels of pure Python, by name and hash, into `folder`: for the version `python`, or for ours."""
    wanted = ["{}=={} --hash=sha256:{}".format(*name.split("-")[:2], sha256) for name, sha256 in wheels]
    flags = ["--only-binary=:all:", "--implementation=py", "--abi=none", "--platform=any"]
    version = [] if python is None else [f"--python-version={python}"]
    _download_pinned(wanted, [*flags, *version], folder, None)


# pip asks a source distribution's build backend for the package's name before it keeps the file. This one
# stands in the backend's place and answers from the file's name: nothing of what was fetched runs.
_BACKEND: Final = """
import os

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    os.mkdir(os.path.join(folder, "{name}-{version}.dist-info"))
    with open(os.path.join(folder, "{name}-{version}.dist-info", "METADATA"), "w") as stream:
        stream.write("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
    return "{name}-{version}.dist-info"
"""


def download_sdist(sdist: str, backend: str, sha256: str, folder: Path) -> None:
    """Put the source distribution of this name into `folder`, by the pip of the running Python."""
    name, _, version = sdist.removesuffix(".tar.gz").rpartition("-")
    stand_in = folder / "backend"
    stand_in.mkdir()
    (stand_in / f"{backend}.py").write_text(_BACKEND.format(name=name, version=version), encoding="ascii")
    flags = ["--no-binary=:all:", "--no-build-isolation"]
    wanted = [f"{name}=={version} --hash=sha256:{sha256}"]
    _download_pinned(wanted, flags, folder, stand_in)
    if not (folder / sdist).is_file():
        raise _Refused("pip: it brought another file")


def _download_pinned(
    requirements: Sequence[str], flags: Sequence[str], folder: Path, modules: Path | None
) -> None:
    wanted = folder / "wanted.txt"
    wanted.write_text("".join(f"{line}\n" for line in requirements), encoding="ascii")
    arguments = ["--no-deps", *flags, "--require-hashes", "--dest", str(folder), "--requirement", str(wanted)]
    try:
        if modules is None:
            pip_download(arguments, seconds_max=_PIP_SECONDS_MAX)
        else:
            pip_download_with_backend(arguments, modules=str(modules), seconds_max=_PIP_SECONDS_MAX)
    except PipFailed as error:
        raise _Refused(f"pip: {error}") from error


def hash_file(path: Path) -> str:
    """Return the file's sha256 in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _receive(
    response: http.client.HTTPResponse, stream: BinaryIO, have: int, pin: PinnedFile, report: Report
) -> str | None:
    while chunk := response.read1(_CHUNK_BYTES):
        have += len(chunk)
        if have > pin.size_bytes:
            stream.truncate(0)
            raise _Refused(f"it is longer than the pinned {pin.size_bytes} bytes")
        stream.write(chunk)
        report(have)
    return None if have == pin.size_bytes else f"it ended after {have} of {pin.size_bytes} bytes"


def _opener(proxy: str | None) -> urllib.request.OpenerDirector:
    """An opener for http and https only; without `proxy` the environment's proxies apply."""
    proxies = None if proxy is None else {"http": proxy, "https": proxy}
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(proxies),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
