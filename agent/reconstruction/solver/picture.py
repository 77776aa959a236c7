"""A reconstruction as a notebook shows it: its phase in grey, and the numbers that go with it; needs no drawing library."""

from __future__ import annotations

import base64
import struct
import zlib
from html import escape

import numpy as np
from numpy.typing import NDArray

HEIGHT = 280
"""Of the picture, screen pixels."""


def phase_html(
    phase: NDArray[np.float32],
    illuminated: NDArray[np.float32],
    pixel_size: tuple[float, float],
    numbers: dict[str, str],
) -> str:
    """A picture and a table beside it.

    Args:
        phase: (y, x), rad.
        illuminated: (y, x), relative to its maximum. The grey levels are those of what has more than half of it; what has less
            than a tenth is cut off.
        pixel_size: (y, x), Å.
        numbers: name -> value, with its unit.
    """
    seen = phase[illuminated > 0.5]
    low, high = np.percentile(seen if seen.size else phase, (0.2, 99.8))
    rows_lit, columns_lit = (np.flatnonzero((illuminated > 0.1).any(axis=axis)) for axis in (1, 0))
    if len(rows_lit):
        phase = phase[rows_lit[0] : rows_lit[-1] + 1, columns_lit[0] : columns_lit[-1] + 1]
    grey = np.clip((phase - low) / max(float(high - low), 1e-9), 0, 1) * 255
    height, width = (n * p for n, p in zip(phase.shape, pixel_size, strict=True))
    source = base64.b64encode(grey_png(np.rint(grey).astype(np.uint8))).decode("ascii")
    rows = {
        "field": f"{height:.4g} × {width:.4g} Å",
        "phase, black to white": f"{low:.3g} … {high:.3g} rad".replace("-", "−"),
        **numbers,
    }
    table = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{escape(value)}</td></tr>'
        for name, value in rows.items()
    )
    size = f"height:{HEIGHT}px;width:{HEIGHT * width / height:.0f}px"
    return f'<div><img style="{size}" src="data:image/png;base64,{source}"><table>{table}</table></div>'


def grey_png(levels: NDArray[np.uint8]) -> bytes:
    """A PNG file of an image (W3C, Portable Network Graphics, 3rd edition).

    Args:
        levels: (y, x), 0 black, 255 white.
    """

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    height, width = levels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    lines = np.zeros((height, width + 1), np.uint8)  # each line begins with its filter: none
    lines[:, 1:] = levels
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines.tobytes())) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
