"""The logits of a pass, wherever they lie, and the tokens that the backend has chosen from them, where it chooses.

A backend that chooses spares logits the way to the host: they are fetched once somebody looks. Chooses nothing itself.
"""

from collections.abc import Callable
from collections.abc import Sequence as Seq

import numpy as np

from stepahead.backends.base import Backend, Floats, SampledRows, SampleRows
from stepahead.engine.request import Sequence
from stepahead.engine.sampler import Sampled, Sampler, SamplerState, Shortlist, is_plain
from stepahead.models.model import ForwardOutput


class LogitRows:
    """(num_logits, num_ids); good until the backend's next step."""

    __slots__ = ("_fetch", "_num_rows", "_sampled", "_values")

    def __init__(self, fetch: Callable[[], Floats], num_rows: int, sampled: SampledRows | None = None) -> None:
        self._fetch = fetch
        self._num_rows = num_rows
        self._sampled = sampled
        self._values: Floats | None = None

    @classmethod
    def of_pass(cls, backend: Backend, output: ForwardOutput) -> "LogitRows":
        """No rows where none were wanted."""
        logits = output.logits
        if logits is None:
            return cls.of(np.empty((0, 0), np.float32))
        return cls(lambda: backend.download(logits), logits.shape[0], output.sampled)

    @classmethod
    def of(cls, values: Floats) -> "LogitRows":
        """Of rows on the host."""
        return cls(lambda: values, len(values))

    def __len__(self) -> int:
        return self._num_rows

    def fetch(self) -> None:
        """Let the tokens that the backend has chosen come to the host: `wait` then waits for no later pass."""
        if self._sampled is not None:
            self._sampled.fetch()

    def is_chosen(self, number: int) -> bool:
        """True where the backend has chosen a token from row `number`."""
        return self._sampled is not None and int(self._sampled.ids()[number]) >= 0

    def wait(self) -> None:
        """Return when the pass is done, and what is wanted of it is on the host."""
        if self._sampled is None:
            self.values  # noqa: B018
        else:
            self._sampled.ids()

    @property
    def values(self) -> Floats:
        """All of them, on the host."""
        if self._values is None:
            self._values = self._fetch()
        return self._values

    def choose(
        self, number: int, sampler: Sampler, state: SamplerState, position: int, shortlist: Shortlist | None = None
    ) -> Sampled:
        """The token at absolute index `position` from row `number`: the backend's choice, or the sampler's."""
        if self._sampled is not None:
            token_id = int(self._sampled.ids()[number])
            if token_id >= 0:
                return Sampled(token_id, float(self._sampled.margins()[number]))
        return sampler.sample(self.values[number], state, position, shortlist)


def sample_rows(wanted: Seq[tuple[Sequence, int]]) -> SampleRows:
    """Of each row of logits, the sequence and the absolute index of the token to be chosen."""
    params = [sequence.request.params for sequence, _ in wanted]
    return SampleRows(
        seeds=np.array([sequence.request.seed for sequence, _ in wanted], np.uint64),
        positions=np.array([position for _, position in wanted], np.int64),
        temperatures=np.array([each.temperature for each in params], np.float64),
        top_k=np.array([each.top_k for each in params], np.int32),
        top_p=np.array([each.top_p for each in params], np.float64),
        min_p=np.array([each.min_p for each in params], np.float64),
        is_plain=np.array([is_plain(sequence) for sequence, _ in wanted], np.bool_),
    )
