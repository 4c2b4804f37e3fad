"""Engines with heads whose drafts are noted, to compare a prompt that was found with one that was computed."""

import numpy as np

from stepahead.engine.engine import Engine
from stepahead.engine.params import Speculation
from stepahead.engine.prefix_spill import PrefixSpill
from stepahead.engine.runner import ModelRunner
from stepahead.engine.sampler import Sampler
from stepahead.engine.scheduler import Scheduler
from stepahead.speculative.mtp import MtpProposer
from support.toy_engine import make_request

WINDOW, NUM_NEW = 16, 8
TEXT = tuple(np.random.default_rng(5).integers(0, 200, 300).tolist())
OTHER = tuple(np.random.default_rng(6).integers(0, 200, 30).tolist())


class Noting(MtpProposer):
    """Notes every draft: request and position of its first token -> ids."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.drafts: dict[tuple[int, int], tuple[int, ...]] = {}

    def propose(self, sequences) -> None:
        super().propose(sequences)
        for sequence in sequences:
            if sequence.draft.token_ids:
                at = sequence.request.request_id, len(sequence.token_ids)
                self.drafts[at] = sequence.draft.token_ids


class Runs:
    """One engine, and what its requests said and drafted."""

    def __init__(
        self, model_and_backend, speculation: Speculation, temperature: float, max_num_seqs: int = 4, kv_type="f32",
        store=None, identity="model", cache_nbytes=None,
    ) -> None:  # fmt: skip
        """store: where prefixes are written, and read by others of the same identity."""
        model, backend = model_and_backend
        runner = ModelRunner.create(model, backend, kv_type, 400, max_num_seqs, 64, cache_nbytes=cache_nbytes)
        self.proposer = Noting(runner, Sampler())
        cache = runner.new_prefix_cache()
        self.spill = None if store is None else PrefixSpill(store, identity, runner, cache)
        scheduler = Scheduler(
            runner.kv_cache, max_num_seqs, 64, drop=self.proposer.forget, cache=cache, spill=self.spill
        )
        self.engine = Engine(runner, scheduler, self.proposer, Sampler())
        self.speculation, self.temperature, self.kv_type = speculation, temperature, kv_type
        self.num_requests = 0

    def add(self, prompt, positions=(), num_new=NUM_NEW, salt=""):
        self.num_requests += 1
        request = make_request(
            self.num_requests, prompt, num_new, depth=self.speculation.depth, speculation=self.speculation, seed=3,
            temperature=self.temperature, snapshot_positions=positions, cache_salt=salt,
        )  # fmt: skip
        return self.engine.add(request)

    def run(self, *args, **kwargs):
        sequence = self.add(*args, **kwargs)
        while self.engine.has_unfinished:
            self.engine.step()
        return sequence

    def drafts(self, sequence) -> dict[int, tuple[int, ...]]:
        number = sequence.request.request_id
        return {position: ids for (each, position), ids in self.proposer.drafts.items() if each == number}


def assert_same(warm: Runs, sequence, cold: Runs) -> None:
    """As a run of the same prompt from nothing. A hit that leaves one token may draft one step earlier."""
    again = cold.run(sequence.request.prompt_ids, num_new=sequence.request.max_new_tokens)
    assert sequence.output_ids == again.output_ids
    drafts, expected = warm.drafts(sequence), cold.drafts(again)
    if sequence.num_cached_tokens < sequence.num_prompt_tokens - 1:
        assert drafts == expected
        assert sequence.stats == again.stats
    else:
        common = drafts.keys() & expected.keys()
        assert common and all(drafts[at] == expected[at] for at in common)


def cold_of(model, warm: Runs) -> Runs:
    class Cold(Runs):
        def run(self, *args, **kwargs):
            self.engine.scheduler.prefix_cache.clear()
            return super().run(*args, **kwargs)

    return Cold(model, warm.speculation, warm.temperature, kv_type=warm.kv_type)


def chain_of(depth: int, chain: str = "exact") -> Speculation:
    return Speculation(mode="mtp", depth=depth, adaptive=False, chain=chain)
