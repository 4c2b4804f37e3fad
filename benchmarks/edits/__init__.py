"""What drafting gains while code is edited: python -m benchmarks.edits, from the root of a checkout."""
