"""What a caller gets back: a finished completion, or the pieces of one as they come."""

from dataclasses import dataclass, field

from stepahead.engine.request import SpeculationStats


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds and counts of one request. In a batch, the seconds are shared with the requests beside it."""

    prompt_tokens: int
    cached_tokens: int  # of the prompt, taken from the turn before instead of computed
    prompt_seconds: float  # until the first token
    generation_seconds: float  # from the first token to the last
    generated_tokens: int
    num_steps: int  # passes over the trunk that yielded tokens of this request

    @property
    def prompt_tokens_per_second(self) -> float:
        return _ratio(self.prompt_tokens - self.cached_tokens, self.prompt_seconds)

    @property
    def tokens_per_second(self) -> float:
        """Of generation: the first token belongs to the prompt."""
        return _ratio(self.generated_tokens - 1, self.generation_seconds)

    @property
    def tokens_per_step(self) -> float:
        """Tokens a trunk pass: 1 without drafts, accepted + 1 with them."""
        return _ratio(self.generated_tokens, self.num_steps)


@dataclass(frozen=True, slots=True)
class Completion:
    """One continued prompt."""

    prompt_token_ids: list[int]
    token_ids: list[int]  # the output, with the end token if it ended on one
    text: str
    finish_reason: str  # "stop", "length" or "abort"
    stop_reason: int | str | None  # the end token's id or the stop string
    seed: int
    speculation: SpeculationStats  # zeros when off
    timings: Timings
    logprobs: list[dict[int, float]] = field(default_factory=list)  # one dict a token, if asked for


@dataclass(frozen=True, slots=True)
class StreamChunk:
    """What one step added. The first num_accepted tokens were drafted."""

    token_ids_delta: list[int]
    text_delta: str
    pieces: list[str]  # text_delta cut by token; text held back for a character or a stop string comes later
    num_accepted: int
    finish_reason: str | None = None
    completion: Completion | None = None  # in the last chunk


def _ratio(count: float, per: float) -> float:
    return count / per if per > 0 else 0.0
