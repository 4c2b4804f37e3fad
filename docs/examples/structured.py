"""Have the embedded model fill in a schema: with drafts and without, the same text."""

import json

import stepahead
from stepahead.grammar import GrammarFactory, JsonSchema

FUNCTION = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z_]{3,20}$"},
        "kind": {"enum": ["function", "method", "class"]},
        "arguments": {"type": "array", "items": {"type": "string", "maxLength": 10}, "maxItems": 3},
    },
    "required": ["name", "kind", "arguments"],
    "additionalProperties": False,
}

with stepahead.LLM.demo() as llm:
    grammar = GrammarFactory.of(llm).for_output(JsonSchema(FUNCTION))
    params = stepahead.SamplingParams(max_tokens=100, temperature=0.8, seed=7, grammar=grammar)
    drafted = llm.generate("# def mean(values): as JSON\n", params)
    plain = llm.generate("# def mean(values): as JSON\n", params, stepahead.Speculation(mode="off"))

print(json.loads(drafted.text), drafted.speculation.num_accepted_tokens_by_source)
assert drafted.token_ids == plain.token_ids
