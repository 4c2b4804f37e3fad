"""A request, the sequence it becomes, and what comes back. Plain data: no model, no device, no text processing."""

import enum
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from stepahead.engine.params import MAX_SEED, SamplingParams, Speculation
from stepahead.engine.replay import Replay
from stepahead.engine.snapshot import HiddenRows, Snapshot
from stepahead.engine.token_counts import TokenCounts
from stepahead.errors import RequestError


class TextStream(Protocol):
    """Turns ids into text as they come and knows the stop strings (tokenizer.Detokenizer)."""

    @property
    def stopped(self) -> bool: ...

    @property
    def matched_stop(self) -> str | None:
        """The stop string that ended the text."""
        ...

    def push(self, token_id: int) -> str: ...

    def flush(self) -> str: ...


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One prompt to continue, checked and resolved: nothing in it is None by way of a default."""

    request_id: int
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    speculation: Speculation
    seed: int
    max_new_tokens: int  # bounded by max_tokens and by the context
    end_ids: frozenset[int]  # tokens that end the sequence: the file's, unless ignore_eos, and stop_token_ids
    text: TextStream | None = None
    depth: int = 0  # resolved: the most draft tokens a step
    replay: Replay | None = None  # stands in for the target's choices
    # Where other prompts may part from this one, such as the ends of messages: numbers of tokens.
    snapshot_positions: tuple[int, ...] = ()
    cache_salt: str = ""  # the prompt finds only what requests with the same one have computed

    @property
    def is_priced(self) -> bool:
        """True if each draft token has to be worth its cost; else depth says how many there are."""
        return self.speculation.adaptive and self.depth > 0


class FinishReason(enum.Enum):
    STOP = "stop"  # end token, stop string or finished grammar
    LENGTH = "length"  # max_tokens or the context limit
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Draft:
    """Proposed continuation of a sequence.

    confidence, of each token: from heads the margin between best and second logit as sampled, from a copy the length
    of the match.
    """

    token_ids: tuple[int, ...] = ()
    confidence: tuple[float, ...] = ()
    source: str = ""


NO_DRAFT = Draft()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one verified step yields: the accepted draft tokens, and the token sampled after them."""

    accepted_ids: tuple[int, ...]
    next_id: int

    @property
    def token_ids(self) -> tuple[int, ...]:
        return (*self.accepted_ids, self.next_id)


@dataclass(slots=True)
class SpeculationStats:
    """Counters of one request, in vLLM's field names. num_drafts: passes that verified at least one draft token."""

    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_accepted_tokens_per_pos: list[int] = field(default_factory=list)
    num_draft_tokens_per_pos: list[int] = field(default_factory=list)
    num_draft_tokens_by_source: dict[str, int] = field(default_factory=dict)  # by Draft.source
    num_accepted_tokens_by_source: dict[str, int] = field(default_factory=dict)  # same keys
    head_rows: list[int] = field(default_factory=list)  # rows each head has run, prompt catch-up included

    def count(self, num_drafted: int, num_accepted: int, source: str) -> None:
        if num_drafted == 0:
            return
        self.num_drafts += 1
        self.num_draft_tokens += num_drafted
        self.num_accepted_tokens += num_accepted
        _add(self.num_draft_tokens_by_source, source, num_drafted)
        _add(self.num_accepted_tokens_by_source, source, num_accepted)
        missing = num_drafted - len(self.num_draft_tokens_per_pos)
        self.num_draft_tokens_per_pos.extend([0] * missing)
        self.num_accepted_tokens_per_pos.extend([0] * missing)
        for position in range(num_drafted):
            self.num_draft_tokens_per_pos[position] += 1
            self.num_accepted_tokens_per_pos[position] += position < num_accepted


def _add(counts: dict[str, int], source: str, count: int) -> None:
    counts[source] = counts.get(source, 0) + count


class SequenceKV:
    """A sequence's hold on the KV cache. `kv_id` names it for proposers, which keep state of their own for each."""

    __slots__ = ("kv_id", "num_claimed", "num_tokens", "tables")

    def __init__(self, kv_id: int, num_groups: int) -> None:
        self.kv_id = kv_id
        self.num_tokens = 0  # positions whose trunk KV is valid
        self.num_claimed = 0  # positions whose blocks stay, for passes that were launched and not yet committed
        self.tables: list[list[int]] = [[] for _ in range(num_groups)]  # block ids by position // BLOCK_SIZE; -1: none


class Sequence:
    """A request in progress."""

    __slots__ = (
        "copy_index",
        "draft",
        "error",
        "finish_reason",
        "grammar",
        "hidden_rows",
        "is_aborted",
        "kv",
        "logprobs",
        "num_cached_tokens",
        "num_computed_tokens",
        "num_passes",
        "num_saved_tokens",
        "request",
        "snapshot_positions",
        "snapshots",
        "stats",
        "stop_reason",
        "text",
        "token_counts",
        "token_ids",
    )

    def __init__(self, request: Request, kv: SequenceKV) -> None:
        self.request = request
        self.kv = kv
        self.token_ids: list[int] = list(request.prompt_ids)  # committed: prompt and output
        self.num_computed_tokens = kv.num_tokens  # rows of the trunk that need not be run again
        self.num_cached_tokens = 0  # of the prompt, found in the prefix cache at admission
        self.hidden_rows: HiddenRows | None = None  # of these, while the proposer begins
        self.snapshot_positions: list[int] = []  # still to come, the next one last
        self.snapshots: list[Snapshot] = []  # of this step, ascending; not yet published
        self.draft: Draft = NO_DRAFT
        self.grammar = request.params.grammar
        self.text = ""
        self.finish_reason: FinishReason | None = None
        self.stop_reason: int | str | None = None
        self.is_aborted = False
        self.error: Exception | None = None  # of its own part of a step, which failed with it
        self.stats = SpeculationStats()
        self.num_passes = 0
        self.num_saved_tokens = 0  # where the last snapshot lies that was written to disk, or that it began from
        self.logprobs: list[dict[int, float]] = []
        self.token_counts: TokenCounts | None = None  # made by the sampler where a penalty looks back
        self.copy_index: object | None = None  # made by speculative/copy.py, the only one to read it

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.request.prompt_ids)

    @property
    def output_ids(self) -> list[int]:
        return self.token_ids[self.num_prompt_tokens :]

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_remaining_tokens(self) -> int:
        return self.request.max_new_tokens - self.num_output_tokens

    @property
    def is_decoding(self) -> bool:
        """True when only the last committed token has not been through the trunk."""
        return self.num_computed_tokens == len(self.token_ids) - 1

    @property
    def is_finished(self) -> bool:
        return self.finish_reason is not None


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """What one step added to one request."""

    request_id: int
    token_ids_delta: tuple[int, ...]
    text_delta: str
    pieces: tuple[str, ...]  # text_delta cut by token: what each token released
    num_accepted: int  # of token_ids_delta, how many were draft tokens (they come first)
    finish_reason: FinishReason | None


def seed_from_system(seed: int | None) -> int:
    """A seed in [0, 2^64): the given one, or one drawn from the system's randomness."""
    if seed is None:
        return int(np.random.SeedSequence().entropy) & MAX_SEED  # type: ignore[arg-type]
    if not 0 <= seed <= MAX_SEED:
        raise RequestError(f"seed={seed} is out of range: give 0 to {MAX_SEED}, or None to draw one")
    return seed
