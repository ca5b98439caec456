"""The guests of this process: each image found, authenticated and linked once, shared by every session."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Final

from rlm_wasm.artifacts.compile_cache import native_code
from rlm_wasm.artifacts.process_guest import loading_guest
from rlm_wasm.limits import BASE_IMAGE
from rlm_wasm.vm.instance import Program
from rlm_wasm.vm.loaded_guest import LoadedGuest
from rlm_wasm.vm.native_code import load_native

_loaded: Final[dict[str, LoadedGuest]] = {}


def load_guest_program(image: str = BASE_IMAGE) -> LoadedGuest:
    """Return the process's guest with the packages of an image, loading it on first use.

    Raises:
        ArtifactError: no guest is built, or no such image, or its files are not what was built.
    """
    if (loaded := _loaded.get(image)) is not None:
        return loaded
    with loading_guest(image) as guest:
        if image not in _loaded:  # by another thread meanwhile
            # Two files of many megabytes to authenticate: at the same time, on two cores.
            with ThreadPoolExecutor(1) as reader:
                memory = reader.submit(guest.read_image)
                module = load_native(native_code(guest.read_code(), _compiled))
                _loaded[image] = LoadedGuest(Program(module, memory.result), guest.facts)
        return _loaded[image]


def _compiled(code: bytes) -> bytes:
    # Here and not above: the cache has it, but for the first time.
    from rlm_wasm.vm.compilation import compile_native

    return compile_native(code)
