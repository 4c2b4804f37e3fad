"""The server under clients: throughput beside llama.cpp's, prefixes, and a long load."""
