"""LLM: the front door. A model file becomes an engine; prompts become requests; steps become completions.

Owns the wiring of the rooms and nothing else: no sampling, no scheduling, no kernels.
"""

import logging
import threading
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from stepahead.completion import Completion, StreamChunk
from stepahead.config import DEFAULT_CACHE_DIR_GB, DEFAULT_MAX_STEP_MS, EngineConfig, ResolvedConfig
from stepahead.demo import demo_path
from stepahead.engine.cycle_queue import CycleQueue
from stepahead.engine.engine import Engine
from stepahead.engine.kv_cache import SLACK
from stepahead.engine.metrics import EngineMetrics
from stepahead.engine.params import SamplingParams, Speculation
from stepahead.engine.runner import ModelRunner
from stepahead.engine.sampler import Sampler
from stepahead.engine.scheduler import Scheduler
from stepahead.engine.teacher import draft_logits, trunk_logits
from stepahead.engine.trace import OnStep
from stepahead.errors import ConfigError, RequestError
from stepahead.gguf import GGUFFile
from stepahead.hub.registry import locate
from stepahead.job import Job
from stepahead.job_loop import JobLoop, OnPrompt
from stepahead.memory.plan import MemoryPlan
from stepahead.model_info import ModelInfo, model_info
from stepahead.models.model import Chain
from stepahead.opening import load_tokenizer, load_weights, open_backend, open_spill
from stepahead.repack.repacked import OnRepack
from stepahead.request_builder import Prompt, RequestBuilder, as_prompts
from stepahead.speculative.arbiter import Arbiter
from stepahead.speculative.cost import CostSeed
from stepahead.speculative.cycle_planner import CyclePlanner
from stepahead.speculative.model_costs import ModelCosts
from stepahead.speculative.mtp import MtpProposer
from stepahead.speculative.probe import SECONDS
from stepahead.tokenizer import ChatTemplate

log = logging.getLogger("stepahead")


class LLM:
    """A loaded model that continues prompts.

    One caller at a time: concurrent calls wait for each other. Give a list of prompts to run them side by side.
    """

    def __init__(
        self,
        model: str | Path,
        mtp: str | Path = "auto",
        kv_type: str = "f16",
        threads: int | None = None,
        context_length: int | str | None = None,
        *,
        device: str = "auto",
        max_num_seqs: int = 8,
        chunk_tokens: int = 512,
        max_step_ms: float | None = DEFAULT_MAX_STEP_MS,
        repack: str | Path = "auto",
        draft_vocab: str | int = "auto",
        draft_type: str = "file",
        cache_gb: float | None = None,
        cache_dir: str | Path | None = None,
        cache_dir_gb: float = DEFAULT_CACHE_DIR_GB,
        memory_gb: float | None = None,
        cpu_experts: int | str = "auto",
        gpu_layers: int | None = None,
        on_repack: OnRepack | None = None,
    ) -> None:
        """Load `model`, a GGUF file (the first shard of a split one) or the name of a pulled one.

        mtp: "auto" uses the heads in the file or those linked to it when it was pulled, "off" none, a path those of a
        companion file. kv_type: "f16", "f32" or "q8_0". threads None: the physical cores this process may use.
        context_length None: the model's, at most 32,768; "auto": the largest that fits into the free memory. device:
        "auto", a GPU that the model fits on, else "cpu"; "cuda", "cuda:1"; "reference", the slow specification.
        max_num_seqs: how many prompts run side by side; chunk_tokens: rows a step; max_step_ms: what a step may take
        while text is generated, or twice what it takes anyway: prompts beside it are cut to fit; None: no limit.
        repack: where repacked weights of a large model are kept: "auto" beside it, a path in that folder, "never"
        nowhere and none are made; on_repack(file, done, total) hears of it, and of weights on their way to a GPU.
        draft_vocab: how many of the most frequent tokens a draft may be of, beside those seen lately: "auto", "full"
        for all, or a number. draft_type: "file", or the type that the heads' large matrices get where it is smaller:
        "Q8_0", "Q6_K", "Q5_K", "Q4_K" or "Q4_0". Both change the speed, never the text.
        cache_gb: memory for the beginnings of prompts that others may share, None: what two contexts take. cache_dir: a
        folder where they outlive this process, cache_dir_gb at most; None: nowhere. memory_gb: what all of this may
        take, None: what is free, float("inf"): that is not checked. cpu_experts: of how many layers, the last ones, the
        CPU computes the routed experts for a GPU; "auto": as few as fit. gpu_layers: all but so many, the first ones.
        Raises ConfigError for a wrong argument, ModelFormatError for a damaged file, UnsupportedModelError for a sound
        file that this version cannot run, CapacityError for what does not fit into memory.
        """
        asked = EngineConfig(
            kv_type=kv_type,
            threads=threads,
            context_length=context_length,
            device=device,
            max_num_seqs=max_num_seqs,
            chunk_tokens=chunk_tokens,
            max_step_ms=max_step_ms,
            mtp=str(mtp),
            repack=str(repack),
            draft_vocab=draft_vocab,
            draft_type=draft_type,
            cache_gb=cache_gb,
            cache_dir=cache_dir,
            cache_dir_gb=cache_dir_gb,
            memory_gb=memory_gb,
            cpu_experts=cpu_experts,
            gpu_layers=gpu_layers,
        )
        if not isinstance(model, str | Path):
            raise ConfigError(f"model={model!r} is not the path of a GGUF file")
        model, companion = locate(model, mtp)
        self._file = GGUFFile.open(model)
        self._heads = None if companion is None else GGUFFile.open(companion)
        self.tokenizer = load_tokenizer(self._file)
        heads = None if mtp == "off" else self._heads or self._file
        self.backend, self._fitted = open_backend(self._file, self._heads, asked)
        loaded, self.repacked = load_weights(self._file, heads, self.backend, self.tokenizer, self._fitted, on_repack)
        self.config: ResolvedConfig = self._fitted.config.resolve(loaded.context_length)
        self.model = loaded
        self.info: ModelInfo = model_info(self._file, self._heads)
        self._requests = RequestBuilder(self.tokenizer, loaded, self.config.context_length)
        self._engine = self._make_engine()
        self._loop = JobLoop(self._engine, self._arbiter.prepare)
        self._lock = threading.Lock()
        self._template: ChatTemplate | None = None
        if mtp == "auto" and loaded.draft is None:
            log.info("%s: %s", self._file.path, self.info.heads_verdict)

    @classmethod
    def demo(cls, **kwargs: Any) -> "LLM":
        """The embedded demo model, a small one that completes Python code; same keyword arguments as LLM."""
        return cls(demo_path(), **kwargs)

    # --- text ---
    def tokenize(self, text: str) -> list[int]:
        """Ids of `text`; begins with BOS if and only if the file says so."""
        return self.tokenizer.encode(text)

    def detokenize(self, token_ids: Seq[int]) -> str:
        return self.tokenizer.decode(self._requests.checked_ids(token_ids))

    # --- generation ---
    @overload
    def generate(
        self, prompt: Prompt, params: SamplingParams | None = None, speculation: Speculation | None = None
    ) -> Completion: ...
    @overload
    def generate(
        self,
        prompt: list[str] | list[list[int]],
        params: SamplingParams | None = None,
        speculation: Speculation | None = None,
    ) -> list[Completion]: ...
    def generate(
        self,
        prompt: Prompt | list[str] | list[list[int]],
        params: SamplingParams | None = None,
        speculation: Speculation | None = None,
    ) -> Completion | list[Completion]:
        """Continue a prompt (text or token ids), or a list of prompts side by side.
        A list of texts or of id lists gives a list; [] gives []. Raises RequestError for a wrong prompt or setting,
        CapacityError for what does not fit.
        """
        prompts, is_list = as_prompts(prompt)
        with self._lock:
            jobs = [self._job(item, params, speculation) for item in prompts]
            for _ in self._loop.run(jobs):
                pass
        completions = [job.completion() for job in jobs]
        return completions if is_list else completions[0]

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        speculation: Speculation | None = None,
        on_prompt: OnPrompt | None = None,
    ) -> Iterator[StreamChunk]:
        """Like generate, in pieces: one chunk a step. Closing the iterator aborts the request.
        on_prompt(done, total) is called after each chunk of a prompt. Settings are checked at the call.
        """
        job = self._job(prompt, params, speculation)
        return self._stream(job, on_prompt)

    def chat(
        self,
        messages: list[dict[str, Any]],
        params: SamplingParams | None = None,
        speculation: Speculation | None = None,
        tools: list[dict[str, Any]] | None = None,
        stream: bool = False,
        on_prompt: OnPrompt | None = None,
        **template_kwargs: Any,
    ) -> Completion | Iterator[StreamChunk]:
        """Answer a conversation, rendered by the file's chat template; template_kwargs reach the template."""
        prompt = self.render_chat(messages, tools, **template_kwargs)
        # The template writes BOS itself.
        ids = self.tokenizer.encode(prompt, add_bos=False)
        if stream:
            return self.stream(ids, params, speculation, on_prompt)
        return self.generate(ids, params, speculation)

    def replay(
        self,
        prompt: Prompt,
        continuation: Prompt,
        speculation: Speculation | None = None,
        params: SamplingParams | None = None,
        rates: Seq[float] | None = None,
    ) -> Completion:
        """Decode as if `continuation` (text or ids) were what the model chooses: what drafting gains on that text.
        Passes, sampling and drafts run as in generate, and the completion has their timings; its text is the
        recorded one. rates forces the heads' drafts: rates[j] is the share whose first j + 1 tokens are right.
        Raises RequestError for what is wrong.
        """
        *_, last = self.stream_replay(prompt, continuation, speculation, params, rates)
        assert last.completion is not None
        return last.completion

    def stream_replay(
        self,
        prompt: Prompt,
        continuation: Prompt,
        speculation: Speculation | None = None,
        params: SamplingParams | None = None,
        rates: Seq[float] | None = None,
    ) -> Iterator[StreamChunk]:
        """Like replay, in pieces: one chunk a step. A text is cut into tokens of its own, from its first character."""
        params, speculation = params or SamplingParams(), speculation or Speculation()
        return self._stream(Job(self._requests.build_replay(prompt, continuation, params, speculation, rates)), None)

    def render_chat(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None, **template_kwargs: Any
    ) -> str:
        """The text that a conversation becomes. Raises RequestError if the file has no chat template."""
        if self._template is None:
            self._template = ChatTemplate.from_tokenizer(self.tokenizer)
        return self._template.render(messages, tools=tools, **template_kwargs)

    # --- evaluation ---
    def logits(self, token_ids: Seq[int]) -> npt.NDArray[np.float32]:
        """(num_tokens, vocab_size) float32: the trunk's logits after each token, teacher-forced."""
        return np.concatenate(list(self.logits_in_chunks(token_ids)))

    def logits_in_chunks(
        self, token_ids: Seq[int], chunk_tokens: int | None = None
    ) -> Iterator[npt.NDArray[np.float32]]:
        """As `logits`, chunk_tokens rows a pass: for texts whose logits would not fit into memory."""
        ids = self._requests.checked_ids(token_ids)
        self._requests.check_length(ids)
        with self._lock:
            self._engine.scheduler.prefix_cache.clear()  # teacher forcing reserves nothing: all room is its own
            for chunk in trunk_logits(self._runner, ids, chunk_tokens or self.config.chunk_tokens):
                yield chunk.copy()

    def draft_logits(self, token_ids: Seq[int], chain: Chain = "exact") -> npt.NDArray[np.float32]:
        """(num_heads, vocab_size) float32: each head's logits in the chain that follows token_ids.

        The last token is the one just sampled, not yet in the trunk; drafts between heads are greedy.
        Raises RequestError if the model has no heads.
        """
        ids = self._requests.checked_ids(token_ids)
        self._requests.check_length(ids)
        Speculation(chain=chain)
        if self._mtp is None:
            raise RequestError(f"{self._file.path}: {self.info.heads_verdict}")
        with self._lock:
            self._engine.scheduler.prefix_cache.clear()
            return draft_logits(self._runner, self._mtp, ids, chain, self.config.chunk_tokens).copy()

    def costs(self, anew: bool = False, seconds: float = SECONDS) -> CostSeed:
        """Milliseconds of passes on this machine: kept from an earlier start, else measured now, in about `seconds`.
        anew: measured now in any case, with more patience, and kept for the next start.
        """
        with self._lock:
            return self._costs.get(anew, seconds)

    # --- lifetime ---
    @property
    def threads(self) -> int:
        """How many threads compute: at first as many as the model was loaded with.

        Set it to give some of them to others, at any time, while text is generated too; the text stays the same.
        Raises ConfigError for more than the model was loaded with.
        """
        return self.backend.threads

    @threads.setter
    def threads(self, threads: int) -> None:
        self.backend.threads = threads

    @property
    def on_step(self) -> OnStep | None:
        """Hears of each verified step, within it; what it raises ends the call that generates. None: nobody listens."""
        return self._arbiter.on_step

    @on_step.setter
    def on_step(self, on_step: OnStep | None) -> None:
        self._arbiter.on_step = on_step

    @property
    def memory(self) -> MemoryPlan:
        """What goes where when every context is full, as it was planned before loading."""
        return self._fitted.plan

    @property
    def metrics(self) -> EngineMetrics:
        """Counters since loading."""
        return self._runner.metrics

    def close(self) -> None:
        """Write what is still to be kept of prompts, and let go of the model's files and memory."""
        if self._spill is not None:
            self._spill.close()
        self._file.close()
        if self._heads is not None:
            self._heads.close()

    def __enter__(self) -> "LLM":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- for stepahead.async_llm ---
    @contextmanager
    def opened(self) -> Iterator[tuple[Engine, RequestBuilder]]:
        """The engine, and what builds its requests, for a thread that steps it itself; all other calls wait."""
        with self._lock:
            self._arbiter.prepare()
            yield self._engine, self._requests

    # --- inside ---
    def _make_engine(self) -> Engine:
        """And all that it works with."""
        config, model, backend = self.config, self.model, self.backend
        limits = config.max_num_seqs, config.chunk_tokens
        of_cache = config.cache_nbytes, self._fitted.max_cache_nbytes
        self._runner = ModelRunner.create(
            model, backend, config.kv_type, config.context_length, *limits, SLACK, *of_cache
        )
        self._costs = ModelCosts(model, backend, config, self._file, self._heads, bool(self.repacked))
        self._sampler = Sampler(backend.token_words)
        self._mtp = MtpProposer(self._runner, self._sampler) if model.draft is not None else None
        self._arbiter = Arbiter(self._mtp, self._costs.get, self._runner)
        cache = self._runner.new_prefix_cache()
        self._spill = open_spill(config, self._file, self._runner, cache)
        forget, max_step_ms = self._arbiter.forget, config.max_step_ms
        scheduler = Scheduler(self._runner.kv_cache, *limits, forget, max_step_ms, cache, self._spill)
        cycles = None
        if self._runner.cycles is not None:
            planner = CyclePlanner(self._arbiter, self._mtp)
            cycles = CycleQueue(self._runner.cycles, planner, scheduler, self._runner.metrics)
        return Engine(self._runner, scheduler, self._arbiter, self._sampler, cycles=cycles)

    def _job(self, prompt: Prompt, params: SamplingParams | None, speculation: Speculation | None) -> Job:
        return Job(self._requests.build(prompt, params or SamplingParams(), speculation or Speculation()))

    def _stream(self, job: Job, on_prompt: OnPrompt | None) -> Iterator[StreamChunk]:
        with self._lock:
            yield from self._loop.stream(job, on_prompt)
