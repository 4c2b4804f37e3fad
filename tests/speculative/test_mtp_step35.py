"""Drafting on real heads: small random Step-3.5 files through the numpy reference, against heads that are run over
every row from position 0, and text with drafts against text without."""

import numpy as np
import pytest

from stepahead.backends.base import BLOCK_SIZE
from stepahead.backends.reference.ops import ReferenceBackend
from stepahead.engine.batch import RowSpan, ScheduledBatch, ScheduledRows
from stepahead.engine.logit_rows import LogitRows
from stepahead.engine.params import SamplingParams, Speculation
from stepahead.engine.request import NO_DRAFT, Request, Sequence
from stepahead.engine.runner import ModelRunner
from stepahead.engine.sampler import Sampler
from stepahead.gguf import GGUFFile
from stepahead.models.registry import load_model
from stepahead.speculative.mtp import MtpProposer
from stepahead.speculative.verify import verify
from support.random_step35 import Shape

SHAPE = Shape(hidden=32, head_dim=16, num_trunk=2, num_experts=4, width=64, vocab=300, full_period=2, window=16)
LENGTH, MAX_TOKENS, CHUNK = 75, 24, 20


class Decoding:
    """The loop of an engine in ten lines, for one sequence."""

    def __init__(self, runner: ModelRunner, prompt_ids, chain: str, depth: int, **params) -> None:
        self.runner, self.proposer, self.sampler = runner, MtpProposer(runner, Sampler()), Sampler()
        speculation = Speculation(chain=chain)
        request = Request(
            0, tuple(prompt_ids), SamplingParams(**params), speculation, 3, MAX_TOKENS, frozenset(), depth=depth
        )
        self.sequence = Sequence(request, runner.kv_cache.new())
        self.hidden = np.empty((0, runner.model.hidden_size), np.float32)
        self.proposer.begin(self.sequence)

    def propose(self) -> None:
        self.proposer.propose([self.sequence])

    def step(self) -> None:
        sequence, kv_cache, start = self.sequence, self.runner.kv_cache, self.sequence.num_computed_tokens
        draft, last = sequence.draft, len(sequence.token_ids)
        end = last + len(draft.token_ids) if sequence.is_decoding else min(start + CHUNK, last)
        rows = ScheduledRows(sequence, start, end, draft, 0, 0, end - last + 1 if end >= last else 0)
        for group, spec in enumerate(self.runner.model.kv_specs):
            assert spec.is_draft or kv_cache.claim(sequence.kv, group, start, end)
        output = self.runner.forward(ScheduledBatch((rows,)))
        verdicts = verify(ScheduledBatch((rows,)), LogitRows.of_pass(self.runner.backend, output), self.sampler)
        sequence.token_ids += verdicts[0].token_ids if verdicts[0] else ()
        sequence.draft = NO_DRAFT
        num_tokens = len(sequence.token_ids) - 1 if verdicts[0] else end
        kv_cache.advance(sequence.kv, end, num_tokens)
        sequence.num_computed_tokens = num_tokens
        self.hidden = np.concatenate([self.hidden[:start], output.hidden])[:num_tokens]
        self.proposer.observe(ScheduledBatch((rows,)), output.hidden, verdicts)


def naive_margins(runner: ModelRunner, decoding: Decoding) -> list[float]:
    """Margins of the draft that lies ready, from a full prefill of every head into fresh blocks."""
    sequence, model, backend = decoding.sequence, runner.model, runner.backend
    chain, is_recurrent = sequence.request.speculation.chain, model.draft.is_recurrent
    position, tokens = len(sequence.token_ids) - 1, [*sequence.token_ids, *sequence.draft.token_ids]
    scratch = ModelRunner.create(model, backend, "f32", 256, 1, 256)
    table = list(range(256 // BLOCK_SIZE))
    trunk = np.concatenate([np.zeros((1, model.hidden_size), np.float32), decoding.hidden])  # row p - 1 at p
    level, links, margins = trunk, np.empty((0, model.hidden_size), np.float32), []
    for step in range(len(sequence.draft.token_ids)):
        head = 0 if is_recurrent else step
        first, end = (head + 1 if chain == "exact" else 0), position + step + 1
        inputs = (
            level[first:end] if chain == "exact" and not is_recurrent else np.concatenate([trunk, links])[first:end]
        )
        rows = np.array([end - first - 1], np.int32)
        ids = np.array(tokens[first:end], np.int32)
        output = scratch.draft_forward(head, [RowSpan(first, end, table, first)], ids, inputs, rows)
        level = np.concatenate([np.full((first + 1, model.hidden_size), np.nan, np.float32), output.hidden])
        links = np.concatenate([links, output.hidden[-1:]])
        assert int(output.logits[0].argmax()) == sequence.draft.token_ids[step]
        second, best = np.sort(output.logits[0])[-2:]
        margins.append(float(best) - float(second))
    return margins


@pytest.mark.parametrize("chain", ["exact", "catchup"])
@pytest.mark.parametrize("changes", [{}, {"mtp_sliding": False}, {"num_heads_mtp": 1}])
def test_drafts_have_the_bits_of_a_full_prefill(model_path, chain: str, changes: dict) -> None:
    file = GGUFFile.open(model_path(SHAPE, **changes))
    runner = ModelRunner.create(load_model(file, ReferenceBackend(), file), ReferenceBackend(), "f32", 256, 2, CHUNK)
    prompt_ids = np.random.default_rng(5).integers(6, 300, LENGTH).tolist()
    drafted, plain = (Decoding(runner, prompt_ids, chain, depth) for depth in (3, 0))
    num_accepted = num_drafted = 0
    while drafted.sequence.num_remaining_tokens > 0:
        drafted.propose()
        draft = drafted.sequence.draft
        assert list(draft.confidence) == naive_margins(runner, drafted)
        num_before = drafted.sequence.num_output_tokens
        drafted.step()
        num_drafted += len(draft.token_ids)
        num_accepted += max(drafted.sequence.num_output_tokens - num_before - 1, 0)
    assert 0 < num_accepted < num_drafted  # both ways were gone
    while plain.sequence.num_remaining_tokens > 0:
        plain.propose()
        plain.step()
    assert plain.sequence.output_ids == drafted.sequence.output_ids


@pytest.mark.parametrize("chain", ["exact", "catchup"])
def test_sampled_text_does_not_depend_on_the_depth(model_path, chain: str) -> None:
    file = GGUFFile.open(model_path(SHAPE))
    model = load_model(file, ReferenceBackend(), file)
    params = {"temperature": 0.8, "top_p": 0.95, "frequency_penalty": 0.3}
    texts = []
    for depth in range(4):
        runner = ModelRunner.create(model, ReferenceBackend(), "f16", 256, 1, CHUNK)
        decoding = Decoding(runner, range(10, 40), chain, depth, **params)
        while decoding.sequence.num_remaining_tokens > 0:
            decoding.propose()
            decoding.step()
        texts.append(decoding.sequence.output_ids[:MAX_TOKENS])
    assert texts == [texts[0]] * 4
