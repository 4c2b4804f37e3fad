"""Counters of the server, and /metrics: plain numbers while serving, Prometheus text when somebody asks.

Names are vLLM's where it has one, so that its dashboards work. Bounds of histograms are ours: tokens of a local engine
come milliseconds apart.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from stepahead.async_llm import AsyncLLM, Ticket
from stepahead.server.statistics import Clock

_LATENCIES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_GAPS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)


class Histogram:
    """Counts by bound; observing costs a search of the bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """times: as if observed so often."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, how many are not above it), as Prometheus has it."""
        found, sum_so_far = [], 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            sum_so_far += count
            found.append(("+Inf" if bound == float("inf") else repr(float(bound)), float(sum_so_far)))
        return found


class ServerMetrics:
    """Since the server was started; changed in the event loop alone."""

    def __init__(self) -> None:
        self.finished: Counter[str] = Counter()  # choices, by finish reason
        self.rejected: Counter[str] = Counter()  # requests, by reason
        self.responses: Counter[int] = Counter()  # by status
        self.time_to_first_token = Histogram(_LATENCIES)
        self.inter_token = Histogram(_GAPS)
        self.per_output_token = Histogram(_GAPS)
        self.end_to_end = Histogram(_LATENCIES)
        self.queue_time = Histogram(_LATENCIES)
        self.prefill_time = Histogram(_LATENCIES)
        self.decode_time = Histogram(_LATENCIES)
        self.prompt_tokens = Histogram(_TOKENS)
        self.generation_tokens = Histogram(_TOKENS)

    def count_step(self, clock: Clock, num_tokens: int, now: float) -> None:
        """Tokens of a step came now; each has its share of the time since those before."""
        if clock.last_token is not None and num_tokens > 0:
            self.inter_token.observe((now - clock.last_token) / num_tokens, num_tokens)

    def count_end(self, reason: str, ticket: Ticket, clock: Clock) -> None:
        """A choice is done."""
        self.finished[reason] += 1
        finished, num_tokens = ticket.finished or ticket.started, 0
        self.prompt_tokens.observe(len(ticket.request.prompt_ids))
        if ticket.sequence is not None:
            num_tokens = ticket.sequence.num_output_tokens
            self.generation_tokens.observe(num_tokens)
        self.end_to_end.observe(finished - ticket.started)
        if ticket.admitted is not None:
            self.queue_time.observe(ticket.admitted - ticket.started)
        if clock.first_token is None or clock.last_token is None:
            return
        self.time_to_first_token.observe(clock.first_token - ticket.started)
        if ticket.admitted is not None:
            self.prefill_time.observe(clock.first_token - ticket.admitted)
        self.decode_time.observe(clock.last_token - clock.first_token)
        if num_tokens > 1:
            self.per_output_token.observe((clock.last_token - clock.first_token) / (num_tokens - 1))


class MetricsCollector:
    """Makes Prometheus metrics of the numbers when it is asked."""

    def __init__(self, llm: AsyncLLM, server: ServerMetrics, model: str) -> None:
        self._llm = llm
        self._server = server
        self._labels = {"model_name": model, "engine": "0"}

    def collect(self) -> Iterable[Metric]:
        yield from self._histograms()
        yield from self._counts()
        if self._llm.state in ("ready", "draining"):
            yield from self._engine()
            yield from self._cache()
            yield from self._speculation()

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, text, labels=list(self._labels))
        family.add_metric(list(self._labels.values()), value)
        return family

    def _counter(
        self, name: str, text: str, values: Iterable[tuple[str, float]], label: str | None = None
    ) -> CounterMetricFamily:
        family = CounterMetricFamily(name, text, labels=[*self._labels, *([] if label is None else [label])])
        for value_label, value in values:
            family.add_metric([*self._labels.values(), *([] if label is None else [value_label])], value)
        return family

    def _histograms(self) -> Iterable[Metric]:
        server = self._server
        for name, text, histogram in (
            ("time_to_first_token_seconds", "From the request to its first token.", server.time_to_first_token),
            ("inter_token_latency_seconds", "Between tokens, a step shared by its tokens.", server.inter_token),
            ("request_time_per_output_token_seconds", "Mean of a request.", server.per_output_token),
            ("e2e_request_latency_seconds", "From the request to its end.", server.end_to_end),
            ("request_queue_time_seconds", "Until a request was admitted.", server.queue_time),
            ("request_prefill_time_seconds", "From admission to the first token.", server.prefill_time),
            ("request_decode_time_seconds", "From the first token to the last.", server.decode_time),
            ("request_prompt_tokens", "Tokens of prompts.", server.prompt_tokens),
            ("request_generation_tokens", "Tokens of answers.", server.generation_tokens),
        ):
            family = HistogramMetricFamily(f"vllm:{name}", text, labels=list(self._labels))
            family.add_metric(list(self._labels.values()), histogram.buckets(), histogram.total)
            yield family

    def _counts(self) -> Iterable[Metric]:
        server = self._server
        finished = sorted(server.finished.items())
        yield self._counter("vllm:request_success", "Choices that are done.", finished, "finished_reason")
        rejected = sorted(server.rejected.items())
        yield self._counter("vllm:admission_rejections", "Requests not taken.", rejected, "reason")
        responses = [(str(status), count) for status, count in sorted(server.responses.items())]
        yield self._counter("stepahead:http_responses", "Responses by status.", responses, "status")
        yield self._gauge("vllm:num_requests_running", "Choices that are computed.", self._llm.num_running)
        yield self._gauge("vllm:num_requests_waiting", "Choices that wait for a place.", len(self._llm.waiting))

    def _engine(self) -> Iterable[Metric]:
        metrics = self._llm.llm.metrics
        for name, text, value in (
            ("vllm:prompt_tokens", "Tokens of admitted prompts.", metrics.num_prompt_tokens),
            ("vllm:prompt_tokens_cached", "Of these, not computed again.", metrics.num_reused_tokens),
            ("vllm:prefix_cache_queries", "Tokens looked up in the prefix cache.", metrics.num_prompt_tokens),
            ("vllm:prefix_cache_hits", "Tokens found there.", metrics.num_reused_tokens),
            ("vllm:generation_tokens", "Tokens generated.", metrics.num_generated_tokens),
            ("stepahead:steps", "Passes over the trunk that were committed.", metrics.num_steps),
            ("stepahead:steps_interrupted", "Passes abandoned for an abort.", metrics.num_interruptions),
            ("stepahead:draft_passes", "Passes over heads.", metrics.num_draft_passes),
            ("stepahead:trunk_rows", "Rows of all passes over the trunk.", metrics.num_trunk_rows),
        ):
            yield self._counter(name, text, [("", value)])
        seconds = [(phase, value) for phase, value in metrics.seconds.items()]
        yield self._counter("stepahead:step_seconds", "Seconds of steps, by part.", seconds, "part")

    def _cache(self) -> Iterable[Metric]:
        metrics, scheduler = self._llm.llm.metrics, self._llm.engine.scheduler
        kv_cache = self._llm.engine.runner.kv_cache
        used = max(
            1.0 - (kv_cache.num_free(group) + scheduler.prefix_cache.num_idle(group)) / count if count else 0.0
            for group, count in enumerate(kv_cache.num_blocks)
        )
        text = "Share of the fullest group of KV blocks that requests hold; 1 is all."
        yield self._gauge("vllm:kv_cache_usage_perc", text, max(used, 0.0))
        yield self._gauge("stepahead:prefix_cache_snapshots", "Places to go on from.", metrics.num_snapshots)
        yield self._gauge("stepahead:prefix_cache_bytes", "What they hold.", metrics.cache_nbytes)
        for name, text, value in (
            ("evictions", "Snapshots dropped for room.", metrics.num_snapshots_evicted),
            ("prompts_held", "Prompts that waited for another's prefix.", scheduler.held_prompts.num_held),
        ):
            yield self._counter(f"stepahead:prefix_cache_{name}", text, [("", value)])
        if scheduler.spill is None:
            return
        own, store = scheduler.spill.counts, scheduler.spill.store_counts
        yield self._gauge("stepahead:prefix_store_records", "Prefixes on disk, in parts.", store.records)
        yield self._gauge("stepahead:prefix_store_bytes", "Their files.", store.nbytes)
        for name, text, value in (
            ("records_written", "Parts written.", store.num_written),
            ("bytes_written", "Given to the disk.", own.nbytes_written),
            ("records_read", "Parts read.", store.num_read),
            ("bytes_read", "Taken from the disk.", own.nbytes_read),
            ("records_evicted", "Parts dropped for room.", store.num_evicted),
            ("records_damaged", "Parts that were damaged, or needed one.", store.num_dropped_damaged),
            ("readings_unused", "Readings that did not fit, or found no room.", own.num_unused),
            ("writes_failed", "Parts that the disk did not take.", store.num_failed_writes),
            ("writes_refused", "Parts not written, too much waited.", store.num_refused_writes),
        ):
            yield self._counter(f"stepahead:prefix_store_{name}", text, [("", value)])

    def _speculation(self) -> Iterable[Metric]:
        metrics = self._llm.llm.metrics
        drafted, accepted = list(metrics.num_by_drafted), list(metrics.num_by_accepted)
        for name, text, value in (
            ("num_drafts", "Drafts that were verified.", sum(drafted[1:])),
            ("num_draft_tokens", "Tokens in them.", sum(n * count for n, count in enumerate(drafted))),
            ("num_accepted_tokens", "Of these, accepted.", metrics.num_accepted_tokens),
        ):
            yield self._counter(f"vllm:spec_decode_{name}", text, [("", value)])
        by_position = [(str(position), sum(accepted[position + 1 :])) for position in range(len(drafted) - 1)]
        name, text = "vllm:spec_decode_num_accepted_tokens_per_pos", "Accepted, by position in the draft."
        yield self._counter(name, text, by_position, "position")
        depths = [(str(depth), count) for depth, count in enumerate(drafted)]
        yield self._counter("stepahead:steps_by_depth", "Verified rows by length of the draft.", depths, "depth")


def router(collector: MetricsCollector) -> APIRouter:
    routes = APIRouter(tags=["Sight"])
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)

    @routes.get("/metrics", summary="Counters in Prometheus' text format", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return routes
