"""Where the arithmetic happens: plain arrays, the CPU's fused kernels, a GPU."""
