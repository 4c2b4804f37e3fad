"""Side by side with llama.cpp: the same file, the same threads, in turns. `python -m benchmarks.peers --help`."""
