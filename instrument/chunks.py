"""Patterns in compressed bytes: bitshuffle/LZ4 in the framing of the HDF5 filter, and the same of plain LZ4, which is read only.

The payload of a chunk is what HDF5's bitshuffle filter (number 32008) writes: 8 bytes big-endian uncompressed size, 4 bytes
big-endian block size in bytes, LZ4 blocks behind their sizes; `write_direct_chunk` takes it as it is. DECTRIS' `lz4` has the
framing of the HDF5 filter 32004, which differs in its blocks: the last is as long as it has to be, and one that LZ4 does not
make shorter is stored as it is.
"""

from __future__ import annotations

import math
import os
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instrument.errors import StreamError

# The wheel's private OpenMP would start a team of threads for every frame, which costs ten times the compression
# itself; it reads the environment once, when it is loaded.
_threads_before = os.environ.get("OMP_NUM_THREADS")
os.environ["OMP_NUM_THREADS"] = "1"
try:
    import bitshuffle
finally:
    if _threads_before is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = _threads_before

BLOCK_BYTES = 8192
MAX_BYTES = 256 << 20
"""Of a pattern: what claims to be larger is not decompressed."""
MAX_BLOCKS = 1 << 18
"""Of a pattern: eight times as many as the largest has at the usual size."""
FRAMING = struct.Struct(">QI")
"""Uncompressed size and block size, bytes."""


def compress(pattern: NDArray[Any]) -> bytes:
    """A pattern (detector_y, detector_x) as bitshuffle/LZ4 in the HDF5 filter framing."""
    block = BLOCK_BYTES // pattern.itemsize
    body: NDArray[np.uint8] = bitshuffle.compress_lz4(np.ascontiguousarray(pattern), block)
    return FRAMING.pack(pattern.nbytes, BLOCK_BYTES) + body.tobytes()


def decode_chunk(chunk: bytes, shape: tuple[int, int], dtype: np.dtype[Any] | str) -> NDArray[Any]:
    """The pattern of a bitshuffle/LZ4 chunk, for readers without HDF5. Raises StreamError where it is corrupt.

    Args:
        chunk: in the HDF5 filter framing.
        shape: (detector_y, detector_x).
        dtype: of the pattern.
    """
    dtype = np.dtype(dtype)
    block_bytes = check_chunk(chunk, shape, dtype)
    body = np.frombuffer(chunk, dtype=np.uint8, offset=FRAMING.size)
    try:
        pattern: NDArray[Any] = bitshuffle.decompress_lz4(body, shape, dtype, block_bytes // dtype.itemsize)
    except (RuntimeError, ValueError) as error:
        msg = f"a frame of {len(chunk)} bytes does not decompress: {error}"
        raise StreamError(msg) from error
    return pattern


def check_chunk(chunk: bytes, shape: tuple[int, int], dtype: np.dtype[Any]) -> int:
    """Verify framing and block lengths against `shape` and `dtype` without decompressing; block size in bytes.

    The decompressor trusts the lengths it is given, so none reaches it unchecked. Raises StreamError.
    """
    n_bytes = math.prod(shape) * dtype.itemsize
    if len(chunk) < FRAMING.size:
        msg = f"a compressed frame of {len(chunk)} bytes is shorter than its own header of {FRAMING.size}"
        raise StreamError(msg)
    size, block_bytes = FRAMING.unpack_from(chunk)
    if size != n_bytes:
        msg = f"a compressed frame says it holds {size} bytes; {shape[0]} × {shape[1]} pixels of {dtype} are {n_bytes}"
        raise StreamError(msg)
    if block_bytes == 0 or block_bytes % (8 * dtype.itemsize):
        msg = f"a block of {block_bytes} bytes is not a multiple of 8 pixels of {dtype}"
        raise StreamError(msg)
    raw_tail = (n_bytes // dtype.itemsize % 8) * dtype.itemsize
    n_blocks = math.ceil((n_bytes - raw_tail) / block_bytes)
    if n_blocks > MAX_BLOCKS:
        msg = (
            f"a compressed frame of {n_blocks} blocks of {block_bytes} bytes; at most {MAX_BLOCKS} blocks are accepted"
        )
        raise StreamError(msg)
    position = FRAMING.size
    for _ in range(n_blocks):
        if position + 4 > len(chunk):
            break
        position += 4 + int.from_bytes(chunk[position : position + 4], "big")
    if position + raw_tail != len(chunk):
        msg = f"a compressed frame of {len(chunk)} bytes is truncated or too long: its {n_blocks} blocks end at {position}"
        raise StreamError(msg)
    return int(block_bytes)


def decode_lz4(blob: bytes, shape: tuple[int, int], dtype: np.dtype[Any] | str) -> NDArray[Any]:
    """The pattern of plain LZ4 blocks. Raises StreamError where it is corrupt.

    Args:
        blob: in the framing of HDF5's LZ4 filter.
        shape: (detector_y, detector_x).
        dtype: of the pattern.
    """
    dtype = np.dtype(dtype)
    left = math.prod(shape) * dtype.itemsize
    if left > MAX_BYTES or len(blob) < FRAMING.size or FRAMING.unpack_from(blob)[0] != left:
        msg = f"an lz4 frame of {len(blob)} bytes does not hold {shape[0]} × {shape[1]} pixels of {dtype}"
        raise StreamError(msg)
    block, position, parts = FRAMING.unpack_from(blob)[1], FRAMING.size, []
    while left > 0:
        size, length = int.from_bytes(blob[position : position + 4], "big"), min(block, left)
        packed = blob[position + 4 : position + 4 + size]
        if length == 0 or len(packed) != size:
            msg = f"an lz4 frame of {len(blob)} bytes is truncated, {left} of its bytes are missing"
            raise StreamError(msg)
        parts.append(packed if size == length else decode_lz4_block(packed, length))
        position, left = position + 4 + size, left - length
    return np.frombuffer(b"".join(parts), dtype=dtype).reshape(shape)


def decode_lz4_block(packed: bytes, length: int) -> bytes:
    """The bytes of one block of LZ4 without any framing. Raises StreamError where it is corrupt.

    Args:
        packed: the block.
        length: of what is in it, bytes.
    """
    # bitshuffle's decoder has the fast way; it wants whole groups of eight bytes and turns their bits.
    if length % 8 == 0 and length < 1 << 31:
        framed = np.frombuffer(len(packed).to_bytes(4, "big") + packed, dtype=np.uint8)
        try:
            turned = bitshuffle.decompress_lz4(framed, (length,), np.dtype(np.uint8), length)
        except (RuntimeError, ValueError) as error:
            msg = f"an lz4 block of {len(packed)} bytes does not decompress: {error}"
            raise StreamError(msg) from error
        return bytes(bitshuffle.bitshuffle(turned, length))
    return _lz4_in_python(packed, length)


def _lz4_in_python(packed: bytes, length: int) -> bytes:
    """The same for any length (LZ4 block format: literals, then a copy of what went before, in turns)."""
    out, position = bytearray(), 0

    def extended(size: int) -> int:
        nonlocal position
        while size >= 15 and packed[position] == 255:
            size, position = size + 255, position + 1
        if size >= 15:
            size, position = size + packed[position], position + 1
        return size

    try:
        while len(out) < length:
            token, position = packed[position], position + 1
            literals = extended(token >> 4)
            out += packed[position : position + literals]
            position += literals
            if len(out) >= length:
                break
            back, position = int.from_bytes(packed[position : position + 2], "little"), position + 2
            copied = extended(token & 15) + 4
            if not 0 < back <= len(out) or len(out) + copied > length:
                break
            for _ in range(-(-copied // back)):
                out += out[len(out) - back : len(out) - back + min(back, copied)]
                copied -= back
    except IndexError:
        out.clear()
    if len(out) != length:
        msg = f"an lz4 block of {len(packed)} bytes does not decompress to {length} bytes"
        raise StreamError(msg)
    return bytes(out)
