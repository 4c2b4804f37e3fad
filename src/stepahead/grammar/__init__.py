"""Output that follows a JSON schema, a grammar or the tools on offer, by llguidance. Needs the extra stepahead[server].

Importing this package raises ImportError where llguidance is missing; `import stepahead` does not import it.
"""

from stepahead.grammar.factory import GrammarFactory
from stepahead.grammar.grammar_error import GrammarError
from stepahead.turns.output_format import GrammarText, JsonObject, JsonSchema

__all__ = ["GrammarError", "GrammarFactory", "GrammarText", "JsonObject", "JsonSchema"]
