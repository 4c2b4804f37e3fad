"""Continue a prompt with the embedded model, with and without drafts."""

import stepahead

with stepahead.LLM.demo() as llm:
    params = stepahead.SamplingParams(max_tokens=48, temperature=0.8, seed=7)
    drafted = llm.generate("def mean(values):", params, stepahead.Speculation(mode="mtp", depth=3))
    plain = llm.generate("def mean(values):", params, stepahead.Speculation(mode="off"))

print(drafted.text)
print(drafted.speculation.num_accepted_tokens_per_pos, drafted.timings.tokens_per_step)
assert drafted.token_ids == plain.token_ids
