"""The command line: `stepahead run | chat | inspect | perplexity | bench`, one module a command.

Stands above everything and is imported by nothing. What a command needs of the engine it takes from `stepahead`'s
public names, inside functions, so that --help answers at once.
"""

from stepahead.cli.main import main

__all__ = ["main"]
