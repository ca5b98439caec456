"""The floating-point flags that numpy's guest works out are those that this machine's processor raises."""

from __future__ import annotations

import subprocess
from pathlib import Path

from rlm_wasm.artifacts.guest_sources import guest_dir
from rlm_wasm.guestbuild.build_host import find_compiler

DRIVER = Path(__file__).parents[2] / "support" / "fp_driver.c"
# The functions over flags in memory, beside the machine's own.
RENAMED = [
    f"-D{name}=soft_{name}"
    for name in (
        "feclearexcept",
        "feraiseexcept",
        "fetestexcept",
        "fegetround",
        "fesetround",
        "fegetenv",
        "fesetenv",
    )
]


def test_what_is_worked_out_is_what_the_processor_raises(tmp_path: Path) -> None:
    ours, program = guest_dir() / "packages" / "numpy", tmp_path / "flags"
    compiler = [find_compiler(), "-std=gnu2x", "-O1", "-frounding-math", "-fno-builtin", "-w", f"-I{ours}"]
    compiler += ["-include", "fenv.h"]  # before ours, which then say the same numbers once more
    flags = tmp_path / "fp_flags.o"
    subprocess.run([*compiler, *RENAMED, "-c", str(ours / "fp_flags.c"), "-o", str(flags)], check=True)
    subprocess.run([*compiler, str(DRIVER), str(flags), "-lm", "-o", str(program)], check=True)
    ended = subprocess.run([program], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
    tried = int(ended.stdout.split()[0])
    assert tried > 5_000
