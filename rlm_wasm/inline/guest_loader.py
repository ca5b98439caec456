"""The guest of this process: found, authenticated and linked once, shared by every session."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Final

from rlm_wasm.artifacts.compile_cache import native_code
from rlm_wasm.artifacts.installed import find_guest
from rlm_wasm.system import forks
from rlm_wasm.vm.instance import Program
from rlm_wasm.vm.loaded_guest import LoadedGuest
from rlm_wasm.vm.native_code import load_native

_lock: Final = forks.module_lock()
_loaded: LoadedGuest | None = None


def load_guest_program() -> LoadedGuest:
    """Return the process's guest, loading it on first use.

    Raises:
        ArtifactError: no guest is built, or its files are not what was built.
    """
    global _loaded
    with _lock:
        if _loaded is None:
            guest = find_guest()
            # Two files of many megabytes to authenticate: at the same time, on two cores.
            with ThreadPoolExecutor(1) as reader:
                image = reader.submit(guest.read_image)
                module = load_native(native_code(guest.read_code(), _compiled))
                _loaded = LoadedGuest(Program(module, image.result), guest.facts)
        return _loaded


def _compiled(code: bytes) -> bytes:
    # Here and not above: the cache has it, but for the first time.
    from rlm_wasm.vm.compilation import compile_native

    return compile_native(code)
