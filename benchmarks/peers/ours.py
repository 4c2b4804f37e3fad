"""Our side of the comparison: decoding and prompts through `LLM`, single passes and cycles through the engine's runner.

A runner of its own beside the one in LLM costs nothing: both read the same weights, and KV memory is taken as it is
touched.
"""

import hashlib

import numpy as np

import stepahead
from benchmarks.peers.side import CHUNK, Answer, Clock, Forced, Text, repeat
from stepahead.engine.batch import ScheduledBatch, ScheduledRows
from stepahead.engine.logit_rows import LogitRows
from stepahead.engine.params import SamplingParams, Speculation
from stepahead.engine.request import NO_DRAFT, Draft, Request, Sequence, Verdict
from stepahead.engine.runner import ModelRunner
from stepahead.engine.sampler import Sampler
from stepahead.models.model import ForwardOutput
from stepahead.speculative.mtp import MtpProposer
from stepahead.speculative.verify import verify


class OurSide:
    """The heads run in the trained chain, as they do by default."""

    def __init__(self, path: str, threads: int, context_length: int) -> None:
        self._llm = stepahead.LLM(
            path, threads=threads, context_length=context_length, max_num_seqs=1, chunk_tokens=CHUNK
        )
        llm = self._llm
        self._runner = ModelRunner.create(llm.model, llm.backend, llm.config.kv_type, context_length, 1, CHUNK)
        self._sampler = Sampler(llm.backend.token_words)
        self.vocab_size = llm.model.vocab_size
        self._recordings: dict[tuple[tuple[int, ...], int], list[int]] = {}

    def first_token(self) -> int:
        return self._llm.generate([0], _greedy(1), Speculation("off")).token_ids[0]

    def decode(self, prefix: list[int], num_tokens: int) -> Answer:
        stream = self._llm.stream(prefix, _greedy(num_tokens), Speculation("off"))
        chunks = [next(stream)]
        clock = Clock()
        with clock("total"):
            chunks += stream
        return Answer([clock.seconds], [token for chunk in chunks for token in chunk.token_ids_delta])

    def prompt(self, ids: list[int]) -> Answer:
        clock = Clock()
        with clock("total"):
            completion = self._llm.generate(ids, _greedy(1), Speculation("off"))
        assert completion.timings.cached_tokens == 0, "a prompt to be timed was in the prefix cache"
        return Answer([clock.seconds], completion.token_ids)

    def verify(self, prefix: list[int], rows: list[int], seconds: float) -> Answer:
        sequence = self._sequence([*prefix, rows[0]], depth=0)
        self._fill(sequence, None)
        batch = batch_of(sequence, Draft(tuple(rows[1:])))
        choices: list[int] = []

        def run(clock: Clock) -> None:
            with clock("total"):
                logits = self._runner.host_logits(self._forward(batch))
                choices[:] = [int(row.argmax()) for row in logits]
                self._commit(batch, 0)

        try:
            return Answer(repeat(run, seconds), choices)
        finally:
            self._runner.kv_cache.release(sequence.kv)

    def cycle(self, prefix: list[int], depth: int, kept: int, seconds: float) -> Answer:
        sequence = self._sequence([*prefix, prefix[0]], depth)
        proposer = MtpProposer(self._runner, self._sampler)
        proposer.begin(sequence)
        self._fill(sequence, proposer)

        def run(clock: Clock) -> None:
            with clock("draft"):
                proposer.propose([sequence])
            batch = batch_of(sequence, sequence.draft)
            assert len(sequence.draft.token_ids) == depth, "the heads drafted fewer tokens than asked"
            with clock("verify"):
                output = self._forward(batch)
                logits = LogitRows.of_pass(self._runner.backend, output)
                verify(batch, logits, self._sampler)
            with clock("catch_up"):
                verdict = Verdict(sequence.draft.token_ids[:kept], int(logits.values[kept].argmax()))
                self._commit(batch, 1 + kept)
                sequence.token_ids.extend(verdict.token_ids)
                proposer.observe(batch, output.hidden, [verdict])

        try:
            return Answer(repeat(run, seconds), sequence.token_ids[len(prefix) + 1 :])
        finally:
            proposer.forget(sequence.kv)
            self._runner.kv_cache.release(sequence.kv)

    def forced(self, prefix: list[int], num_tokens: int, depth: int | None, rates: list[float], seed: int) -> Forced:
        """Decode the text of plain decoding; its drafts are right as often as asked for. depth None: auto; 0: plain."""
        key = (tuple(prefix), num_tokens)
        if key not in self._recordings:
            self._recordings[key] = self._llm.generate(prefix, _greedy(num_tokens), Speculation("off")).token_ids
        speculation = Speculation() if depth is None else Speculation("mtp" if depth else "off", depth, adaptive=False)
        params = SamplingParams(seed=seed)
        stream = self._llm.stream_replay(prefix, self._recordings[key], speculation, params, rates)
        first = next(stream)
        clock = Clock()
        with clock("total"):
            *_, last = [first, *stream]
        assert last.completion is not None
        stats = last.completion.speculation
        num_timed = num_tokens - len(first.token_ids_delta)
        expected = sum(rate * drafted for rate, drafted in zip(rates, stats.num_draft_tokens_per_pos, strict=False))
        drafts = (stats.num_draft_tokens, stats.num_accepted_tokens)
        return Forced(clock.seconds["total"], num_timed, *drafts, expected)

    def text(self, prompt: list[int], num_tokens: int, mode: str) -> Text:
        """Greedy decoding, with the drafts of a mode of Speculation."""
        timings = self._llm.generate(prompt, _greedy(num_tokens), Speculation(mode)).timings  # type: ignore[arg-type]
        return Text(timings.generation_seconds, timings.generated_tokens - 1)

    def choices(self, ids: list[int]) -> tuple[list[int], str]:
        logits = self._llm.logits(ids)
        digest = hashlib.sha256(np.ascontiguousarray(logits, dtype="<f4").tobytes()).hexdigest()[:16]
        return logits.argmax(axis=-1).tolist(), digest

    def facts(self) -> dict[str, object]:
        return {"engine": f"stepahead {stepahead.__version__}", **self._llm.backend.describe()}

    # --- one sequence on the bare runner ---
    def _sequence(self, ids: list[int], depth: int) -> Sequence:
        """All ids but the last are to be run as a prompt."""
        request = Request(
            request_id=0,
            prompt_ids=tuple(ids),
            params=SamplingParams(),
            speculation=Speculation("mtp", depth, adaptive=False) if depth else Speculation("off"),
            seed=0,
            max_new_tokens=self._llm.config.context_length,
            end_ids=frozenset(),
            depth=depth,
        )
        return Sequence(request, self._runner.kv_cache.new())

    def _fill(self, sequence: Sequence, proposer: MtpProposer | None) -> None:
        end = len(sequence.token_ids) - 1
        for start in range(0, end, CHUNK):
            stop = min(start + CHUNK, end)
            batch = ScheduledBatch((ScheduledRows(sequence, start, stop, NO_DRAFT, 0, 0, 0),))
            output = self._forward(batch)
            self._commit(batch, stop - start)
            if proposer is not None:
                proposer.observe(batch, output.hidden, [None])

    def _forward(self, batch: ScheduledBatch) -> ForwardOutput:
        rows = batch.rows[0]
        for group, spec in enumerate(self._runner.model.kv_specs):
            if not spec.is_draft:
                has_room = self._runner.kv_cache.claim(rows.sequence.kv, group, rows.start, rows.end)
                assert has_room, "the context was sized for less than this"
        return self._runner.forward(batch)

    def _commit(self, batch: ScheduledBatch, num_kept: int) -> None:
        """Of the rows just run, the first num_kept stand."""
        rows = batch.rows[0]
        self._runner.kv_cache.advance(rows.sequence.kv, rows.end, rows.start + num_kept)
        rows.sequence.num_computed_tokens = rows.start + num_kept


def _greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, ignore_eos=True)


def batch_of(sequence: Sequence, draft: Draft) -> ScheduledBatch:
    """The last committed token and a draft: logits for each."""
    start, num_rows = sequence.num_computed_tokens, 1 + len(draft.token_ids)
    return ScheduledBatch((ScheduledRows(sequence, start, start + num_rows, draft, 0, 0, num_rows),))
