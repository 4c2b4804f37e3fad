"""The GPU backend: Triton kernels on weights that stay quantised. The only room that imports torch and triton.

Everything here also runs in Triton's interpreter, on the CPU and slowly, with TRITON_INTERPRET=1 set before the first
import: that is how it is tested where there is no GPU.
"""
