"""`RLMLogger`: the trajectory of each completion, in memory and as lines for the library's visualizer."""

from __future__ import annotations

import json
import os
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from rlm_wasm.compat.records import RLMIteration, RLMMetadata
from rlm_wasm.errors import UsageError

# A log holds what contexts hold.
_MODE = 0o600


class TrajectoryLog(Protocol):
    """What an RLM writes to: ours below, or the library's own of that name."""

    def log_metadata(self, metadata: Any) -> None:
        """Take how the RLM was made. Called once for each RLM."""

    def log(self, iteration: Any) -> None:
        """Take a turn."""

    def clear_iterations(self) -> None:
        """Begin another completion."""

    def get_trajectory(self) -> dict[str, Any] | None:
        """Return what there is of the completion so far."""


class RLMLogger:
    """Keeps the trajectory of a completion; with `log_dir` it is appended to a file there as well.

    The file begins with a line of type `metadata`, then has a line of type `iteration` for each turn. It is
    readable by its owner alone. One completion at a time: others want a logger each.

    Raises:
        UsageError: `log_dir` cannot be made.
    """

    def __init__(self, log_dir: str | os.PathLike[str] | None = None, file_name: str = "rlm") -> None:
        self.log_dir = log_dir
        self.log_file_path: str | None = None
        if log_dir is not None:
            folder = Path(log_dir)
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(f"log_dir cannot be made: {error}") from error
            stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
            self.log_file_path = str(folder / f"{file_name}_{stamp}_{uuid.uuid4().hex[:8]}.jsonl")
        self._metadata: dict[str, Any] | None = None
        self._iterations: list[dict[str, Any]] = []

    def log_metadata(self, metadata: RLMMetadata) -> None:
        """Keep how the RLM was made; the first one stays. Raises OSError where the file cannot be written."""
        if self._metadata is None:
            self._metadata = metadata.to_dict()
            self._write({"type": "metadata", "timestamp": _now(), **self._metadata})

    def log(self, iteration: RLMIteration) -> None:
        """Keep a turn. Raises OSError where the file cannot be written."""
        entry = {
            "type": "iteration",
            "iteration": len(self._iterations) + 1,
            "timestamp": _now(),
            **iteration.to_dict(),
        }
        self._iterations.append(entry)
        self._write(entry)

    def clear_iterations(self) -> None:
        """Begin another completion; the file keeps what it has."""
        self._iterations = []

    def get_trajectory(self) -> dict[str, Any] | None:
        """Return how the RLM was made and the turns of this completion; None: no RLM has this logger."""
        if self._metadata is None:
            return None
        return {"run_metadata": self._metadata, "iterations": list(self._iterations)}

    @property
    def iteration_count(self) -> int:
        """How many turns this completion has."""
        return len(self._iterations)

    def _write(self, entry: dict[str, Any]) -> None:
        if self.log_file_path is None:
            return
        # ASCII: text that has no UTF-8 has a form too.
        line = json.dumps(entry) + "\n"
        with open(self.log_file_path, "a", encoding="ascii", opener=_private) as file:
            file.write(line)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, _MODE)


def _now() -> str:
    return datetime.now().isoformat()
