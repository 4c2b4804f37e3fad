"""What of the official tests of JSON Schema is enforced: counts, and every value that is wrongly let through.

    python tools/json_schema_suite.py path/to/JSON-Schema-Test-Suite/tests/draft2020-12

The suite is not part of this repository; the source distribution of the package jsonschema holds it, in json/tests.
Every group's schema is compiled; each of its values is written as JSON, properties in the schema's order, and read
through the masks of the grammar. A false accept is a defect; a false reject is stricter than the schema.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stepahead import LLM
from stepahead.grammar import GrammarError, GrammarFactory
from stepahead.turns.output_format import JsonSchema


@dataclass(slots=True)
class Counts:
    groups: int = 0
    enforced: int = 0
    values: int = 0
    false_rejects: list[str] = field(default_factory=list)
    false_accepts: list[str] = field(default_factory=list)
    refused_for: dict[str, int] = field(default_factory=dict)

    def refuse(self, error: GrammarError) -> None:
        words = str(error).split(": ")
        kind = words[1].split(".")[-1].split("[")[0] if words[0] == "cannot be enforced" else "found by compiling"
        self.refused_for[kind] = self.refused_for.get(kind, 0) + 1


def ordered(value: Any, schema: Any) -> Any:
    """Objects with the schema's properties first, in its order, as the grammar wants them."""
    if isinstance(value, list):
        return [ordered(inner, None) for inner in value]
    if not isinstance(value, dict):
        return value
    named = schema.get("properties", {}) if isinstance(schema, dict) else {}
    names = [*(name for name in named if name in value), *(name for name in value if name not in named)]
    return {name: ordered(value[name], named.get(name)) for name in names}


def accepts(llm: LLM, state: Any, text: str) -> bool:
    logits = np.empty(llm.model.vocab_size, np.float32)
    for token_id in llm.tokenizer.encode(text, add_bos=False, parse_special=False):
        logits[:] = 0.0
        state.mask(logits)
        if logits[token_id] != 0.0:
            return False
        state = state.advance(token_id)
    if state.is_finished:
        return True
    logits[:] = 0.0
    state.mask(logits)
    return all(logits[end] == 0.0 for end in llm.tokenizer.end_ids)


def run(folder: Path, llm: LLM) -> Counts:
    factory, counts = GrammarFactory(llm.tokenizer, llm.model.vocab_size), Counts()
    for path in sorted(folder.glob("*.json")):
        for group in json.loads(path.read_text(encoding="utf-8")):
            counts.groups += 1
            try:
                state = factory.for_output(JsonSchema(group["schema"]))
            except GrammarError as error:
                counts.refuse(error)
                continue
            counts.enforced += 1
            for test in group["tests"]:
                counts.values += 1
                try:
                    text = json.dumps(ordered(test["data"], group["schema"]), ensure_ascii=False)
                    found = accepts(llm, state, text)
                except GrammarError:
                    found = False
                where = f"{path.stem}: {group['description']}: {test['description']}"
                if found and not test["valid"]:
                    counts.false_accepts.append(where)
                elif not found and test["valid"]:
                    counts.false_rejects.append(where)
    return counts


def main() -> int:
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        print(__doc__, file=sys.stderr)
        return 2
    counts = run(Path(sys.argv[1]), LLM.demo(threads=1))
    print(f"{counts.enforced} of {counts.groups} groups are enforced, with {counts.values} values:")
    print(f"{len(counts.false_accepts)} false accepts, {len(counts.false_rejects)} false rejects")
    for kind, count in sorted(counts.refused_for.items(), key=lambda item: -item[1]):
        print(f"  refused: {count:3} {kind}")
    for name, listed in (("accept", counts.false_accepts), ("reject", counts.false_rejects)):
        for where in listed:
            print(f"  false {name}: {where}")
    return 1 if counts.false_accepts else 0


if __name__ == "__main__":
    sys.exit(main())
