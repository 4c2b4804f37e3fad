"""A model without weights: logits are a hash of every token that a row sees through its KV cache.

A wrong slot, block table, window, position or rollback changes the hash, and so the text. Two trunk layers (all keys;
a window of 70) and one head's KV group. `continuation` computes the same text from the token list alone.
"""

from dataclasses import dataclass

import numpy as np

from stepahead.backends.base import BLOCK_SIZE, Rope
from stepahead.engine.engine import Engine
from stepahead.engine.kv_cache import KVCache, size_groups
from stepahead.engine.params import SamplingParams, Speculation
from stepahead.engine.prefix_cache import PrefixCache
from stepahead.engine.request import NO_DRAFT, Draft, Request
from stepahead.engine.runner import ModelRunner
from stepahead.engine.sampler import Sampler
from stepahead.engine.scheduler import Scheduler
from stepahead.engine.snapshot import HiddenRows
from stepahead.models.model import DraftSpec, ForwardOutput, KVSpec, LayerSpec

VOCAB = 40
WINDOW = 70
SLACK = 17
SPECS = (
    KVSpec("full", None, (0,), is_draft=False),
    KVSpec("sliding", WINDOW, (1,), is_draft=False),
    KVSpec("mtp-sliding", WINDOW, (2,), is_draft=True),
)
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def mix(x):
    """Splitmix64: every bit of the result depends on every bit of x."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def at_position(values, positions):
    return mix(values + (positions.astype(np.uint64) + np.uint64(1)) * MULTIPLIER)


def logits_of(x):
    """(num_rows,) hashes -> (num_rows, VOCAB) float32 in [0, 8)."""
    hashed = mix(x[:, None] + np.arange(1, VOCAB + 1, dtype=np.uint64) * MULTIPLIER)
    return (hashed >> np.uint64(40)).astype(np.float32) / np.float32(2**21)


def continuation(token_ids, count):
    """The `count` greedy tokens that follow, from the token list alone."""
    tokens = list(token_ids)
    for _ in range(count):
        positions = np.arange(len(tokens))
        x0 = mix(np.array(tokens, dtype=np.uint64))
        x1 = mix(x0 + np.cumsum(at_position(x0, positions), dtype=np.uint64))
        seen = np.sum(at_position(x1, positions)[-WINDOW:], dtype=np.uint64)
        tokens.append(int(logits_of(mix(x1[-1:] + seen)).argmax()))
    return tokens[len(token_ids) :]


class ToyKV:
    def __init__(self, num_blocks):
        self.num_blocks = num_blocks
        self.cells = np.random.default_rng(num_blocks).integers(0, 2**63, num_blocks * BLOCK_SIZE, dtype=np.uint64)
        self.nbytes = self.cells.nbytes


class ToyBackend:
    name = "toy"
    can_sample = False
    can_share = False

    def new_kv(self, num_blocks, num_kv_heads, head_dim, kv_type):
        return ToyKV(num_blocks)

    def begin_step(self):
        pass

    def copy_block(self, kv, old, new):
        kv.cells[new * BLOCK_SIZE : (new + 1) * BLOCK_SIZE] = kv.cells[old * BLOCK_SIZE : (old + 1) * BLOCK_SIZE]

    def download(self, x):
        return x


def seen_keys(kv, rows, row):
    """Sum over the keys that a row sees, through its block table."""
    positions = np.arange(rows.first_keys[row], rows.positions[row] + 1)
    blocks = rows.block_tables[rows.sequences[row]][positions // BLOCK_SIZE]
    assert (blocks >= 0).all(), "a row sees a key whose block is gone"
    cells = kv.cells[blocks * BLOCK_SIZE + positions % BLOCK_SIZE]
    return np.sum(at_position(cells, positions), dtype=np.uint64)


class ToyModel:
    vocab_size = VOCAB
    hidden_size = 2
    context_length = 4096
    num_trunk_layers = 2
    kv_specs = SPECS
    draft = DraftSpec(num_heads=1, layers=(2,), window=WINDOW)
    draft_vocab = None

    def __init__(self):
        self.layers = tuple(
            LayerSpec(index, 1, 1, 4, spec.window, Rope(4, 1e4), index, 0.0, 0.0, False)
            for index, spec in enumerate(SPECS)
        )
        self.batches = []

    def forward(self, batch, kv, checkpoint):
        self.batches.append(batch)
        assert batch.attention[2] is None
        x = mix(batch.token_ids.astype(np.uint64))
        for layer in (0, 1):
            rows = batch.attention[layer]
            assert (rows.positions == batch.positions).all()
            assert len(set(rows.slots.tolist())) == len(rows.slots), "two rows write the same slot"
            kv[layer].cells[rows.slots] = x
            checkpoint()
            x = mix(x + np.array([seen_keys(kv[layer], rows, row) for row in range(len(x))], dtype=np.uint64))
        hidden = np.stack([batch.token_ids, batch.positions], axis=1).astype(np.float32)
        return ForwardOutput(logits_of(x[batch.logit_rows]) if len(batch.logit_rows) else None, hidden)

    def draft_forward(self, head, batch, hidden, kv, checkpoint):
        rows = batch.attention[2]
        assert batch.attention[:2] == (None, None)
        kv[2].cells[rows.slots] = batch.token_ids
        checkpoint()
        x = np.array([seen_keys(kv[2], rows, row) for row in range(len(batch.token_ids))], dtype=np.uint64)
        return ForwardOutput(logits_of(x[batch.logit_rows]), hidden)


class ToyProposer:
    """Drafts the true continuation, with an error wherever is_right(position) is False; holds blocks of its own."""

    def __init__(self, is_right=lambda position: True, excess=0):
        self.is_right = is_right
        self.excess = excess  # tokens drafted beyond what is allowed
        self.kv_cache = None
        self.known = {}  # kv_id -> number of tokens observed
        self.events = []

    def begin(self, sequence):
        self.events.append(("begin", sequence.request.request_id, sequence.num_computed_tokens))
        assert sequence.kv.kv_id not in self.known, "a sequence begins once"
        if sequence.kv.num_tokens:
            assert sequence.hidden_rows is not None, "a prefix whose hidden rows are not known"
        self.known[sequence.kv.kv_id] = sequence.kv.num_tokens

    def propose(self, sequences):
        for sequence in sequences:
            sequence.draft = NO_DRAFT
            if not sequence.is_decoding:
                continue
            depth = min(sequence.request.depth, sequence.num_remaining_tokens - 1) + self.excess
            position = len(sequence.token_ids)
            tokens = continuation(sequence.token_ids, depth)
            guessed = tuple(
                token if self.is_right(position + offset) else (token + 1) % VOCAB
                for offset, token in enumerate(tokens)
            )
            sequence.draft = Draft(guessed, (1.0,) * len(guessed), "toy")
            self.kv_cache.claim(sequence.kv, 2, max(0, position - 2), position + depth)
            self.kv_cache.trim(sequence.kv, 2, position - WINDOW)

    def observe(self, batch, hidden, verdicts):
        assert len(hidden) == batch.num_rows
        for rows in batch.rows:
            kv = rows.sequence.kv
            assert self.known[kv.kv_id] == rows.start, "observed rows follow one another"
            assert hidden[rows.first_row, 1] == rows.start
            self.known[kv.kv_id] = kv.num_tokens
            for snapshot in rows.sequence.snapshots:
                assert rows.start < snapshot.position <= kv.num_tokens
                snapshot.hidden = HiddenRows((), 0)

    def forget(self, kv):
        self.events.append(("forget", kv.kv_id))
        del self.known[kv.kv_id]


@dataclass
class Letters:
    """A text stream of one letter a token, which holds back len(stop) - 1 letters."""

    stop: str = ""
    matched_stop: str | None = None
    held: str = ""

    @property
    def stopped(self):
        return self.matched_stop is not None

    def push(self, token_id):
        assert not self.stopped
        self.held += letter(token_id)
        if self.stop and self.held.endswith(self.stop):
            self.matched_stop = self.stop
            self.held = self.held.removesuffix(self.stop)
            return self.flush()
        keep = max(len(self.stop) - 1, 0)
        cut = len(self.held) - min(keep, len(self.held))
        ready, self.held = self.held[:cut], self.held[cut:]
        return ready

    def flush(self):
        ready, self.held = self.held, ""
        return ready


@dataclass(frozen=True)
class Countdown:
    """A grammar that allows everything and is finished after `left` tokens."""

    left: int

    def mask(self, logits):
        assert not self.is_finished, "nothing may be asked after the end"

    def advance(self, token_id):
        assert not self.is_finished
        return Countdown(self.left - 1)

    @property
    def is_finished(self):
        return self.left == 0


def letter(token_id):
    return chr(ord("A") + token_id)


def prompt_of(length, seed=0):
    return tuple(int(token) for token in np.random.default_rng(seed).integers(0, VOCAB, length))


def make_request(
    request_id,
    prompt_ids,
    max_new_tokens,
    *,
    end_ids=(),
    text=None,
    depth=3,
    seed=0,
    speculation=None,
    snapshot_positions=(),
    cache_salt="",
    **params,
):
    return Request(
        request_id=request_id,
        prompt_ids=tuple(prompt_ids),
        params=SamplingParams(**params),
        speculation=speculation or Speculation(),
        seed=seed,
        max_new_tokens=max_new_tokens,
        end_ids=frozenset(end_ids),
        text=text,
        depth=depth,
        snapshot_positions=tuple(snapshot_positions),
        cache_salt=cache_salt,
    )


def make_engine(
    proposer=None,
    *,
    max_num_seqs=4,
    chunk_tokens=64,
    context_length=1024,
    num_blocks=None,
    slack=SLACK,
    max_step_ms=None,
    row_ms=0.0,
    cache_nbytes=None,
):
    """row_ms: what a row takes on the engine's clock; cache_nbytes: a block counts as one byte."""
    proposer = proposer or ToyProposer()
    model = ToyModel()
    if num_blocks is None:
        num_blocks = size_groups(SPECS, context_length, max_num_seqs, chunk_tokens, slack)
    kv_cache = KVCache(SPECS, num_blocks, slack)
    runner = ModelRunner(model, ToyBackend(), kv_cache, tuple(ToyKV(count) for count in num_blocks))
    proposer.kv_cache = kv_cache
    cache = PrefixCache(kv_cache, (1,) * len(SPECS), cache_nbytes)
    scheduler = Scheduler(kv_cache, max_num_seqs, chunk_tokens, proposer.forget, max_step_ms, cache)

    def clock():
        return 1e-3 * row_ms * runner.metrics.num_trunk_rows

    return Engine(runner, scheduler, proposer, Sampler(), clock)


def run(engine, max_steps=2000):
    """Step until nothing is left; (token ids, text, finish reason) by request id, as the outputs told them."""
    results = {}
    for _ in range(max_steps):
        if not engine.has_unfinished:
            return results
        collect(results, engine.step())
        check_bookkeeping(engine)
    raise AssertionError(f"still running after {max_steps} steps")


def run_on(engine, results=None):
    """The same of an engine over any model, after what `results` tells."""
    results = {} if results is None else results
    while engine.has_unfinished:
        collect(results, engine.step())
    return results


def collect(results, outputs):
    for output in outputs:
        tokens, text, reason = results.get(output.request_id, ((), "", None))
        assert reason is None, "an output after the last"
        assert "".join(output.pieces) == output.text_delta
        results[output.request_id] = (
            tokens + output.token_ids_delta,
            text + output.text_delta,
            output.finish_reason,
        )


def check_bookkeeping(engine):
    """Between steps: rows, tokens and blocks agree."""
    kv_cache = engine.runner.kv_cache
    for sequence in engine.scheduler.running:
        assert not sequence.is_finished
        assert sequence.kv.num_tokens == sequence.num_computed_tokens <= len(sequence.token_ids) - 1
        assert sequence.draft is NO_DRAFT or engine.metrics.num_interruptions
    cache = engine.scheduler.prefix_cache
    for group, count in enumerate(kv_cache.num_blocks):
        held = set(cache._pins[group])
        writable = []
        for sequence in engine.scheduler.running:
            table = sequence.kv.tables[group]
            held |= {block for block in table if block >= 0}
            writable += table[sequence.num_computed_tokens // BLOCK_SIZE :]
        assert len(writable) == len(set(writable)), "two sequences may write to one block"
        assert len(held) + kv_cache.num_free(group) == count, "a block leaked"
        assert not SPECS[group].is_draft or not cache._pins[group]
    if cache._max_nbytes is not None:
        assert cache.nbytes <= cache._max_nbytes
    assert cache.nbytes == sum(cache.num_pinned(group) for group in range(len(SPECS)))


def assert_all_free(engine):
    """Without the prefix cache, every block is free and the proposer remembers nothing."""
    assert_blocks_free(engine)
    assert engine.scheduler.prefix_cache.nbytes == 0
    assert engine.scheduler.prefix_cache._tree._roots == {}
    assert engine.proposer.known == {}


def assert_blocks_free(engine):
    """The same of an engine over any model, whatever proposes."""
    engine.scheduler.prefix_cache.clear()
    kv_cache = engine.runner.kv_cache
    assert [kv_cache.num_free(group) for group in range(len(kv_cache.specs))] == list(kv_cache.num_blocks)
