"""zstd as the standard library has it from Python 3.14 on, and before that the backport of the same.

Everybody who packs or unpacks it takes it from here: one interface, each step of which can be bounded.
"""

from __future__ import annotations

import sys

if sys.version_info >= (3, 14):
    from compression.zstd import (
        CompressionParameter,
        DecompressionParameter,
        ZstdCompressor,
        ZstdDecompressor,
        ZstdError,
    )
else:
    from backports.zstd import (
        CompressionParameter,
        DecompressionParameter,
        ZstdCompressor,
        ZstdDecompressor,
        ZstdError,
    )

__all__ = [
    "CompressionParameter",
    "DecompressionParameter",
    "ZstdCompressor",
    "ZstdDecompressor",
    "ZstdError",
    "bounded_decompressor",
]


def bounded_decompressor(window_log_max: int) -> ZstdDecompressor:
    """Return a decompressor that takes no more memory for its window than 2 to the power of that."""
    return ZstdDecompressor(options={DecompressionParameter.window_log_max: window_log_max})
