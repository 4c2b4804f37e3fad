"""The comparison finds a difference where there is one."""

from benchmarks import same_text
from stepahead import LLM


def test_texts_are_the_same(capsys):
    with LLM.demo() as llm:
        prompts = same_text.cut_prompts(llm, 6, seed=1)
        assert prompts == same_text.cut_prompts(llm, 6, seed=1)
        assert same_text.compare(llm, prompts, 24) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all("6 prompts" in line and "0 of 0" not in line for line in lines)


def test_a_difference_counts(monkeypatch, capsys):
    with LLM.demo() as llm:
        prompts = same_text.cut_prompts(llm, 2, seed=1)
        whole, generate = [], llm.generate

        def spoilt(prompt, *settings):
            completion = generate(prompt, *settings)
            if len(settings) == 1 and isinstance(prompt[0], int):  # drafted, alone
                whole.append(completion.token_ids.pop())
            return completion

        monkeypatch.setattr(llm, "generate", spoilt)
        assert same_text.compare(llm, prompts, 12) == len(whole) == 6
