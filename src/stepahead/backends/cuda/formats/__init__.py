"""How quantised weights lie in the GPU's memory: a table of types, and the numpy specification of packing them."""
