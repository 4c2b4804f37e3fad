"""The real service of a model, but for the engine: a script writes the turns, in the model's own format.

Requests are read, rendered, counted and refused as ever, and what the script writes goes through the same text as a
model's tokens. So clients can be tried with answers, calls and errors that no model at hand would give.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from httpx import ASGITransport, AsyncClient

from stepahead import LLM
from stepahead.async_llm import AsyncLLM
from stepahead.engine.request import SpeculationStats
from stepahead.gguf import write_gguf
from stepahead.server.api_error import ApiError
from stepahead.server.app import make_app
from stepahead.server.choice import Choice
from stepahead.server.config import ServerConfig
from stepahead.server.request_context import OWNER
from stepahead.server.service import LLMService
from stepahead.server.turn_service import FinishReason, PreparedTurn, Progress, TurnEnd, TurnStep
from stepahead.turns.turn_request import TurnRequest
from support.random_step35 import Shape, metadata, model_tensors

TEMPLATE = Path(__file__).parents[1] / "tokenizer" / "data" / "step_like.jinja"
_STEP = 5  # tokens
_NO_TICKET: Any = SimpleNamespace(sequence=None)  # no tokens of a model's are to be kept


@dataclass(frozen=True)
class Said:
    """A turn. text: as the model writes it, which begins within its reasoning."""

    text: str
    finish_reason: FinishReason | None = None  # what the text says, if None
    error: ApiError | None = None  # that ends it
    silence: float = 0.0  # seconds before it
    pause: float = 0.0  # seconds between steps


Script = Callable[[TurnRequest], Said]  # may raise ApiError, before the answer has begun


def turn(reasoning: str, content: str = "", *calls: str) -> str:
    return f"{reasoning}\n</think>\n{content}{''.join(calls)}"


def call(name: str, **arguments: str) -> str:
    """As Step writes it: raw text, whatever it holds."""
    values = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())
    return f"<tool_call>\n<function={name}>\n{values}</function>\n</tool_call>"


def write_step_like(path: Path, context: int = 4096) -> Path:
    """A random model that speaks Step's format."""
    shape = Shape(context=context)
    write_gguf(path, {**metadata(shape), "tokenizer.chat_template": TEMPLATE.read_text()}, dict(model_tensors(shape)))
    return path


@dataclass(frozen=True)
class _Details:
    prepared: list[Any]
    said: Said


class ScriptedLLMService(LLMService):
    """See LLMService. asked: the requests, as the script saw them; prompts: as a model would have."""

    def __init__(self, llm: AsyncLLM, config: ServerConfig, model_id: str, script: Script) -> None:
        super().__init__(llm, config, model_id)
        self.script = script
        self.asked: list[TurnRequest] = []
        self.prompts: list[str] = []

    async def prepare(self, request: TurnRequest) -> PreparedTurn:
        prepared = await super().prepare(request)
        self.asked.append(request)
        self.prompts.append(self.llm.llm.tokenizer.decode(list(prepared.prompt_ids), skip_special=False))
        return replace(prepared, details=_Details(prepared.details, self.script(request)))

    async def run(self, turn: PreparedTurn) -> AsyncGenerator[Progress | TurnStep | TurnEnd, None]:
        said: Said = turn.details.said
        num_prompt = len(turn.prompt_ids)
        yield Progress(num_prompt, 0, 0, False)
        await asyncio.sleep(said.silence)
        for _, choice in turn.details.prepared:
            num_tokens = 0
            for step in self._steps(choice, said.text):
                choice.note(step.events)
                num_tokens += step.num_tokens
                yield step
                await asyncio.sleep(said.pause)
            if said.error is not None:
                raise said.error
            choice.remember(_NO_TICKET, self._reasoning, self._turns, OWNER.get())
            yield _end(choice, said, num_prompt, num_tokens)

    def _steps(self, choice: Choice, text: str) -> "list[TurnStep]":
        ids = self.llm.llm.tokenizer.encode(text, add_bos=False, parse_special=True)
        steps = []
        for start in range(0, len(ids), _STEP):
            some = ids[start : start + _STEP]
            for token_id in some:
                choice.text.push(token_id)
            if start + _STEP >= len(ids):
                choice.text.flush()
            steps.append(TurnStep(choice.index, tuple(choice.text.take_events()), len(some), 0))
        return steps


def _end(choice: Choice, said: Said, num_prompt: int, num_tokens: int) -> TurnEnd:
    reason: FinishReason = "tool_calls" if choice.text.num_complete_calls else "stop"
    times = dict.fromkeys(("prompt_ms", "predicted_ms", "predicted_per_second", "ttft_ms", "queue_ms"), 1.0)
    return TurnEnd(
        choice=choice.index,
        finish_reason=said.finish_reason or reason,
        stop_sequence=None,
        prompt_tokens=num_prompt,
        cached_tokens=0,
        completion_tokens=num_tokens,
        reasoning_tokens=choice.text.num_reasoning_tokens,
        speculation=SpeculationStats(),
        timings=times,
    )


@asynccontextmanager
async def scripted(path: Path, script: Script, **config: Any) -> AsyncIterator[tuple[ScriptedLLMService, AsyncClient]]:
    """The whole application, called without a socket."""
    settings = ServerConfig(port=0, **config)
    llm = AsyncLLM(lambda: LLM(path, threads=1), settings.queue)
    service = ScriptedLLMService(llm, settings, "step-test", script)
    service.llm.start()
    async with AsyncClient(transport=ASGITransport(make_app(service)), base_url="http://localhost") as client:
        await service.warm_up()
        try:
            yield service, client
        finally:
            service.close()
            await service.llm.close()
