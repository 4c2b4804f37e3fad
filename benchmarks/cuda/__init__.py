"""Everything that is asked of the GPU backend, measured by one call on the GPU at hand: python -m benchmarks.cuda"""
