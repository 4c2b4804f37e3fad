"""Text as it comes, and which of it was drafted."""

import stepahead

with stepahead.LLM.demo() as llm:
    for chunk in llm.stream("import os\n", stepahead.SamplingParams(max_tokens=32)):
        for index, piece in enumerate(chunk.pieces):
            print(f"[{piece}]" if index < chunk.num_accepted else piece, end="", flush=True)
print()
