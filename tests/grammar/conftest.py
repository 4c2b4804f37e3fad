"""A demo and a random model with grammars, where llguidance is installed."""

import numpy as np
import pytest

from stepahead import LLM

THREADS = 1


class Reader:
    """Walks texts through the masks of a grammar, as a model that means to write them would."""

    def __init__(self, llm: LLM) -> None:
        from stepahead.grammar import GrammarFactory

        self.llm = llm
        self.vocab_size = llm.model.vocab_size
        self.factory = GrammarFactory(llm.tokenizer, self.vocab_size)

    def ids(self, text: str, parse_special: bool = True) -> list[int]:
        return self.llm.tokenizer.encode(text, add_bos=False, parse_special=parse_special)

    def allowed(self, state) -> set[int]:
        logits = np.zeros(self.vocab_size, np.float32)
        state.mask(logits)
        return set(np.flatnonzero(logits == 0).tolist())

    def read(self, state, text: str | list[int]):
        """The state after a text; None if a mask forbids one of its tokens."""
        for token_id in self.ids(text) if isinstance(text, str) else text:
            if token_id not in self.allowed(state):
                return None
            state = state.advance(token_id)
        return state

    def accepts(self, state, text: str | list[int]) -> bool:
        """Whether a whole text is allowed, and may end where it ends."""
        state = self.read(state, text)
        return state is not None and (state.is_finished or self.llm.tokenizer.end_ids <= self.allowed(state))


@pytest.fixture(scope="session")
def demo_llm() -> LLM:
    return LLM.demo(threads=THREADS)


@pytest.fixture(scope="session")
def demo(demo_llm) -> Reader:
    """The demo model: 2,048 tokens, those of calls among them."""
    return Reader(demo_llm)


@pytest.fixture(scope="session")
def random_model(model_path) -> Reader:
    """A random model: 384 tokens, most of them single bytes and fillers; </think>, and no tokens of calls."""
    return Reader(LLM(model_path("f32"), threads=THREADS))


@pytest.fixture(params=["demo", "random_model"])
def reader(request: pytest.FixtureRequest) -> Reader:
    return request.getfixturevalue(request.param)
