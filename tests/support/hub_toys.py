"""A repository as the official one is: trunks in folders, heads beside them; and one file that has both."""

REPO = "owner/Toy-GGUF"
TRUNK, FULL, HEADS = "IQ4_XS/Toy-IQ4_XS.gguf", "Toy-Q4_K_M.gguf", "Toy-mtp-Q8_0.gguf"
