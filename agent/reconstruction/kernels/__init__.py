"""Compiled code: numba kernels kept as machine code, and CUDA sources."""
