"""llama.cpp's own server, inside the process: what it drafts, verifies and forces is its business.

Its switch for synthetic acceptance takes rates by position, cumulative as ours; a draft token that is to be accepted
becomes the text. The depth is one of the server's settings, so each depth is a server of its own.
"""

from typing import Any

import xllamacpp

from benchmarks.peers.side import Forced, Text, some_ids

WARM_UP_TOKENS = 16


class ServerSide:
    """One server: one slot, no prompt cache, keys and values in F16, for the rest its defaults."""

    def __init__(
        self,
        path: str,
        threads: int,
        context_length: int,
        repack: bool,
        depth: int,
        rates: tuple[float, ...] | None,
        ngram: str = "",
    ) -> None:
        self._rates = [*(rates or ()), *[0.0] * depth][:depth]  # beyond the last, as ours: never
        params = xllamacpp.CommonParams()
        params.model.path = path
        params.n_ctx, params.n_parallel, params.n_gpu_layers = context_length, 1, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.no_extra_bufts = not repack
        params.load_mtp, params.fit_params, params.warmup = True, False, False
        params.cache_ram_mib, params.n_ctx_checkpoints, params.verbosity = 0, 0, -1
        if depth:
            speculative = params.speculative
            speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_MTP]
            speculative.draft.n_max, speculative.draft.n_min, speculative.draft.p_min = depth, 0, 0.0
            if rates is not None:
                speculative.synth_rates = self._rates
        if ngram:
            name = f"COMMON_SPECULATIVE_TYPE_NGRAM_{ngram.upper().replace('-', '_')}"
            params.speculative.types = [getattr(xllamacpp.common_speculative_type, name)]
        self._server = xllamacpp.Server(params)

    def first_token(self) -> int:
        self._complete(some_ids(32, 4, seed=1), 1, seed=0)
        return 0  # what it was does not matter: a load is over

    def forced(self, prefix: list[int], num_tokens: int, seed: int) -> Forced:
        """Greedy decoding. The server's clock runs from the first token to the last."""
        self._complete(prefix, WARM_UP_TOKENS, seed)
        timings = self._complete(prefix, num_tokens, seed)
        drafted = timings.get("draft_n", 0)
        return Forced(
            timings["predicted_ms"] / 1e3,
            timings["predicted_n"] - 1,
            drafted,
            timings.get("draft_n_accepted", 0),
            drafted * sum(self._rates) / max(1, len(self._rates)),
        )

    def text(self, prompt: list[int], num_tokens: int) -> Text:
        """Greedy decoding, as it drafts by itself."""
        timings = self._complete(prompt, num_tokens, seed=0)
        return Text(timings["predicted_ms"] / 1e3, timings["predicted_n"] - 1)

    def _complete(self, ids: list[int], num_tokens: int, seed: int) -> dict[str, Any]:
        question = {
            "prompt": ids,
            "n_predict": num_tokens,
            "temperature": 0.0,
            "ignore_eos": True,
            "cache_prompt": False,
            "seed": seed,
        }
        answer = self._server.handle_completions(question)
        if "timings" not in answer:
            raise RuntimeError(f"llama.cpp's server refuses: {answer}")
        timings: dict[str, Any] = answer["timings"]
        return timings
