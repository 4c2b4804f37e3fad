"""One conversation: its messages, its counters, and how an answer is made, printed, interrupted and remembered.

Knows no commands and reads no input.
"""

import contextlib
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, cast

from stepahead.cli.console import prompt_bar
from stepahead.cli.report import draft_figures, total_stats
from stepahead.cli.token_printer import TokenPrinter

if TYPE_CHECKING:
    from stepahead import LLM, Completion, SamplingParams, Speculation, StreamChunk


class ChatSession:
    """A conversation with one model."""

    def __init__(self, llm: "LLM", params: "SamplingParams", drafting: "Speculation", system: str | None) -> None:
        self._llm = llm
        self._params = params
        self._drafting = drafting
        self._completions: list[Completion] = []
        self.system = system
        self.messages: list[dict[str, str]] = []

    def reset(self) -> None:
        """Forget the conversation; the system message stays."""
        self.messages = []

    def answer(self, text: str) -> "Completion | None":
        """Print the answer to `text`; None where Ctrl-C stopped it: what had come is kept as the answer.

        Whatever is raised, the conversation is as it was.
        """
        self.messages.append({"role": "user", "content": text})
        printer, completion = TokenPrinter(), None
        said: list[int] = []
        try:
            with contextlib.closing(self._stream()) as stream:
                for chunk in stream:
                    printer.push(chunk)
                    said += chunk.token_ids_delta
                    completion = chunk.completion
        except KeyboardInterrupt:
            completion = None
        except BaseException:
            self.messages.pop()
            raise
        finally:
            printer.finish()
        if said or completion is not None:
            self.messages.append(self._message(said))
        else:
            self.messages.pop()
        if completion is not None:
            self._completions.append(completion)
        return completion

    def _message(self, token_ids: list[int]) -> dict[str, str]:
        """An answer as templates want it back: reasoning apart from content."""
        from stepahead.tokenizer import split_reasoning

        reasoning, content = split_reasoning(self._llm.tokenizer, token_ids)
        message = {"role": "assistant", "content": content}
        return message if reasoning is None else {**message, "reasoning_content": reasoning}

    def _stream(self) -> Generator["StreamChunk", None, None]:
        """Chunks of the answer; closing it ends the request."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages: list[dict[str, Any]] = [*system, *self.messages]
        with prompt_bar() as bar:
            answer = self._llm.chat(messages, self._params, self._drafting, stream=True, on_prompt=bar)
            with contextlib.closing(cast("Generator[StreamChunk, None, None]", answer)) as stream:
                for chunk in stream:
                    bar.stop()
                    yield chunk

    def stats(self) -> str:
        """The session so far, in one line."""
        timings = [completion.timings for completion in self._completions]
        tokens = sum(one.generated_tokens for one in timings)
        steps = sum(one.num_steps for one in timings)
        seconds = sum(one.generation_seconds for one in timings)
        timed_tokens = tokens - len(timings)  # the first token of an answer belongs to its prompt
        return " · ".join(
            (
                f"{len(timings)} answers, {tokens} tokens",
                f"{timed_tokens / seconds if seconds else 0.0:.1f} tokens/s",
                f"{tokens / steps if steps else 0.0:.2f} tokens/step",
                draft_figures(total_stats(completion.speculation for completion in self._completions)),
                f"{sum(one.cached_tokens for one in timings)} of {sum(one.prompt_tokens for one in timings)} "
                "prompt tokens from the cache",
            )
        )
