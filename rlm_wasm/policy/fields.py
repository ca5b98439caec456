"""The kinds of number a policy may hold, each with a ceiling that no operator has a reason to pass.

A ceiling is not a recommendation: it catches a slipped digit, and it keeps sums of limits far
inside 64 bits. Every limit is an integer and finite, so `inf` and `nan` have nowhere to go.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

# 32-bit WebAssembly addresses 4 GiB; the last 64 KiB page stays out so that sizes fit 32 bits.
WASM_MEMORY_BYTES: Final = 4 * GIB - 64 * KIB
DAY_MS: Final = 24 * 60 * 60 * 1000

Flag = bool
Bytes16T = Annotated[int, Field(gt=0, le=16 * 1024 * GIB)]
Bytes4G = Annotated[int, Field(gt=0, le=WASM_MEMORY_BYTES)]
BytesOrNone4G = Annotated[int, Field(ge=0, le=WASM_MEMORY_BYTES)]
Bytes256M = Annotated[int, Field(gt=0, le=256 * MIB)]
Bytes64M = Annotated[int, Field(gt=0, le=64 * MIB)]
Milliseconds = Annotated[int, Field(gt=0, le=DAY_MS)]
Fuel = Annotated[int, Field(gt=0, le=10**16)]
Tokens = Annotated[int, Field(gt=0, le=10**12)]
# 0 is a real price and a real budget: models that cost nothing, and runs that may cost nothing.
Microdollars = Annotated[int, Field(ge=0, le=10**12)]
Count = Annotated[int, Field(gt=0, le=10_000_000)]
SmallCount = Annotated[int, Field(gt=0, le=10_000)]
CountOrNone = Annotated[int, Field(ge=0, le=10_000_000)]
Percent = Annotated[int, Field(gt=0, le=100)]
TenantName = Annotated[str, Field(min_length=1, max_length=256)]
Attempts = Annotated[int, Field(gt=0, le=20)]
# 0 means no child runs at all.
Depth = Annotated[int, Field(ge=0, le=16)]
Nesting = Annotated[int, Field(gt=0, le=64)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]

MODEL_SPEC_PATTERN: Final = r"^[a-z][a-z0-9_-]{0,31}:[^\x00-\x20\x7f][^\x00-\x1f\x7f]{0,511}$"
ModelSpec = Annotated[str, Field(pattern=MODEL_SPEC_PATTERN)]
# Empty means that no key is sent.
EnvName = Annotated[str, Field(pattern=r"^([A-Za-z_][A-Za-z0-9_]{0,127})?$")]
Url = Annotated[str, Field(max_length=2048)]
