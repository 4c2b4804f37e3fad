"""One op a file: the kernel, and the function that launches it. docs/numerics-cuda.md says what they compute."""
