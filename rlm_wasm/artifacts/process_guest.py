"""The guest of this process, of each image: found once, and the same for all who ask from then on.

What lies on disk may be made again while sessions are over what was there before, and a snapshot of theirs
belongs to that. So whoever runs a guest, describes it or binds something to it asks here, and files that came
afterwards fail against what was found. Where nothing is over it yet, what cannot be read is looked for again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rlm_wasm.artifacts.guest import Guest
from rlm_wasm.artifacts.installed import find_guest
from rlm_wasm.errors import ArtifactError
from rlm_wasm.limits import BASE_IMAGE
from rlm_wasm.system import forks

_looking: Final = forks.module_lock()
_loading: Final = forks.module_lock()
_found: Final[dict[str, Guest]] = {}
# The images of which something is loaded, or read from a file to be continued.
_kept: Final[set[str]] = set()


def known_guest(image: str = BASE_IMAGE) -> Guest | None:
    """Return this process's guest of an image if it was found already, without waiting for anything."""
    return _found.get(image)


def process_guest(image: str = BASE_IMAGE, *, keep: bool = False) -> Guest:
    """Return this process's guest of an image; with `keep` it stays that one whatever comes.

    The first call takes what `find_guest` takes, seconds where a guest is unpacked. Raises what that raises.
    """
    with _looking:
        guest = _found.get(image)
        if guest is None:
            guest = _found[image] = find_guest(image)
        if keep:
            _kept.add(image)
        return guest


@contextmanager
def loading_guest(image: str) -> Iterator[Guest]:
    """Give this process's guest to whoever loads it within, one at a time: once that went well it is kept.

    Raises what `find_guest` raises.
    """
    with _loading:
        guest = process_guest(image)
        try:
            yield guest
        except ArtifactError:
            with _looking:
                if image not in _kept:
                    _found.pop(image, None)
            raise
        process_guest(image, keep=True)
