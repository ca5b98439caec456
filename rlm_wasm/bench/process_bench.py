"""The cost of a whole `rlm-wasm exec`, as a process, caches warm."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rlm_wasm.bench.measurement import Measurement, median_ns
from rlm_wasm.errors import InternalError


def exec_process(*, quick: bool) -> Measurement:
    """Measure `rlm-wasm exec` of `1+1`, beside this interpreter doing the same."""
    n = 5 if quick else 15
    with TemporaryDirectory() as folder:
        source = Path(folder) / "cell.py"
        source.write_text("1+1\n")
        command = [sys.executable, "-m", "rlm_wasm", "exec", str(source)]

        def body() -> None:
            done = subprocess.run(command, capture_output=True, check=False)
            if done.returncode != 0 or done.stdout != b"2\n":
                raise InternalError(f"exec failed: {done.stderr.decode('utf-8', 'replace')[-500:]}")

        body()  # caches warm
        middle, tail = median_ns(body, n)
        native, _ = median_ns(lambda: _native(), n)
    note = f"p99 {tail / 1e6:.0f} ms; {middle / native:.1f} times this interpreter's own start"
    return Measurement("exec_process_ms", middle / 1e6, "ms", n, note)


def _native() -> None:
    subprocess.run([sys.executable, "-I", "-c", "print(1+1)"], capture_output=True, check=True)
