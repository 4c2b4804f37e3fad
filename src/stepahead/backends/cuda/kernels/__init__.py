"""One op a file: the kernel, and the function that launches it. What a kernel computes stands in docs/numerics-cuda.md."""
