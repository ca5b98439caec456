"""A zygote's process while a thread makes it: owned from before there is one until it is handed over."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

from rlm_wasm.host.guest_files import guest_files
from rlm_wasm.host.zygote import Zygote
from rlm_wasm.limits import BASE_IMAGE
from rlm_wasm.protocol.process_limits import ProcessLimits


class ZygoteStart:
    """One launch, on a thread that nobody has to wait for: what it makes after it was dropped ends at once.

    Reading the guest takes some hundred milliseconds, once for a process, and longer if native code has to
    be made first; starting an interpreter takes some tens.
    """

    def __init__(
        self, entry: str, limits: ProcessLimits, required: Iterable[str], image: str = BASE_IMAGE
    ) -> None:
        self._image: Final = image
        self._entry: Final = entry
        self._limits: Final = limits
        self._required: Final = tuple(required)
        self._handing_over: Final = threading.Lock()
        self._zygote: Zygote | None = None
        self._dropped = False
        # Whether there may be a process that nobody was given yet. Once dropped it becomes false soon.
        self.making = False

    def run(self) -> None:
        """Make the process. Raises what `Zygote.launch` raises."""
        guest_files(self._image)
        with self._handing_over:
            if self._dropped:
                return
            self.making = True
        try:
            zygote = Zygote.launch(self._entry, self._limits, required=self._required, image=self._image)
            with self._handing_over:
                if not self._dropped:
                    self._zygote = zygote
                    return
            zygote.kill()
            zygote.close()
        finally:
            self.making = False

    def take(self) -> Zygote | None:
        """Return the process, the caller's from now on; where there is none yet, drop it and return None."""
        with self._handing_over:
            zygote, self._zygote = self._zygote, None
            self._dropped = zygote is None
        return zygote
