"""Weights in the layout that a backend multiplies fastest, made once and kept in a file that the next start maps.

`loading` is the way in: it asks the model's own walk over its tensors which matrices there are, and the backend which
layout it prefers for each. Small models are repacked in memory; large ones into a `cache_file`, in a folder that
`folders` chooses. Whatever goes wrong, the weights are used as they are in the model's file.
"""
