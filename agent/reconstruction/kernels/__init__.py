"""Compiled code: numba kernels that are kept as machine code, and CUDA sources."""
