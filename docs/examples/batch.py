"""Several prompts side by side: each gets the tokens that it would get alone."""

import stepahead

prompts = ["def add(a, b):", "class Point:", "for line in"]
params = stepahead.SamplingParams(max_tokens=16, temperature=1.0, seed=1)
with stepahead.LLM.demo() as llm:
    together = llm.generate(prompts, params)
    alone = [llm.generate(prompt, params) for prompt in prompts]

assert [one.token_ids for one in together] == [one.token_ids for one in alone]
