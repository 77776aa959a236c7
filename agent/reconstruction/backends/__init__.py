"""Where the arithmetic happens: plain arrays, fused CPU kernels, a GPU."""
