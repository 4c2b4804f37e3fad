"""The answer to a text completion: frames of a stream, or one object, from the steps of its turn."""

from collections.abc import Sequence
from typing import Any

from stepahead.server.api_error import ApiError
from stepahead.server.completion_request import CompletionRequest
from stepahead.server.sse import DONE
from stepahead.server.step_extension import FIELD, step_extension
from stepahead.server.turn_service import PreparedTurn, Progress, TokenLogprob, TurnEnd, TurnStep
from stepahead.server.wire import (
    Envelope,
    compact,
    error_frame,
    finish_reason,
    members,
    prompt_progress,
    statistics,
    total_usage,
)
from stepahead.turns.event import ContentText


class CompletionStream:
    """Makes the frames of one stream: a TurnWriter. echo: what each choice begins with."""

    def __init__(self, asked: CompletionRequest, turn: PreparedTurn, echo: Sequence[str]) -> None:
        self._asked = asked
        self._echo = echo
        self._envelope = Envelope("cmpl", "text_completion", turn.model)
        self._logprobs = [_Logprobs(asked.turn.params.logprobs is not None) for _ in echo]
        self._ends: list[TurnEnd] = []

    def begin(self, num_prompt_tokens: int) -> bytes:
        return b"".join(self._chunk(choice, text, None, {}) for choice, text in enumerate(self._echo))

    def take(self, item: Progress | TurnStep | TurnEnd) -> bytes:
        if isinstance(item, TurnStep):
            return self._step(item)
        if isinstance(item, TurnEnd):
            return self._end(item)
        told = {"prompt_progress": prompt_progress(item)} if self._asked.has_progress else {}
        return self._chunk(0, "", None, told) if told else b""

    def finish(self) -> bytes:
        if not self._asked.has_usage:
            return DONE
        told = statistics(self._ends) if self._asked.has_steps else {}
        counts = total_usage(self._ends, self._asked.turn.num_choices)
        return self._envelope.frame("[]", members({"usage": counts, **told})) + DONE

    def fail(self, error: ApiError) -> bytes:
        return error_frame(error)

    def _step(self, step: TurnStep) -> bytes:
        text = _text(step)
        extra = {FIELD: step_extension(step)} if self._asked.has_steps else {}
        told = self._logprobs[step.choice].as_object(step.logprobs)
        return self._chunk(step.choice, text, told, extra) if text or extra or step.logprobs else b""

    def _end(self, end: TurnEnd) -> bytes:
        self._ends.append(end)
        is_last = self._asked.has_steps and not self._asked.has_usage and len(self._ends) == len(self._echo)
        return self._chunk(end.choice, "", None, statistics(self._ends) if is_last else {}, finish_reason(end))

    def _chunk(self, choice: int, text: str, told: Any, extra: dict[str, Any], finish: str | None = None) -> bytes:
        one = {"index": choice, "text": text, "logprobs": told, "finish_reason": finish}
        no_usage: dict[str, Any] = {"usage": None} if self._asked.has_usage else {}
        return self._envelope.frame(compact([one]), members({**no_usage, **extra}))


class CompletionAnswer:
    """Puts one object together: a TurnAnswer."""

    def __init__(self, asked: CompletionRequest, turn: PreparedTurn, echo: Sequence[str]) -> None:
        self._asked = asked
        self._turn = turn
        self._texts = [[text] for text in echo]
        self._logprobs: list[list[TokenLogprob]] = [[] for _ in echo]
        self._ends: dict[int, TurnEnd] = {}

    def take(self, item: Progress | TurnStep | TurnEnd) -> None:
        if isinstance(item, TurnStep):
            self._texts[item.choice].append(_text(item))
            self._logprobs[item.choice] += item.logprobs
        elif isinstance(item, TurnEnd):
            self._ends[item.choice] = item

    def as_object(self) -> dict[str, Any]:
        """After the last item."""
        has_logprobs = self._asked.turn.params.logprobs is not None
        ends = [self._ends[choice] for choice in range(len(self._texts))]
        choices = [
            {
                "index": choice,
                "text": "".join(self._texts[choice]),
                "logprobs": _Logprobs(has_logprobs).as_object(self._logprobs[choice]),
                "finish_reason": finish_reason(end),
            }
            for choice, end in enumerate(ends)
        ]
        return {
            **Envelope("cmpl", "text_completion", self._turn.model).as_object(),
            "choices": choices,
            "usage": total_usage(ends, self._asked.turn.num_choices),
            **(statistics(ends) if self._asked.has_steps else {}),
        }


class _Logprobs:
    """Of one choice: text_offset goes on from step to step."""

    def __init__(self, is_wanted: bool) -> None:
        self._is_wanted = is_wanted
        self._offset = 0

    def as_object(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self._is_wanted:
            return None
        told: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for one in tokens:
            text = one.token.decode("utf-8", "replace")
            told["tokens"].append(text)
            told["token_logprobs"].append(max(one.logprob, -9999.0))
            told["top_logprobs"].append({token.decode("utf-8", "replace"): value for token, value in one.top})
            told["text_offset"].append(self._offset)
            self._offset += len(text)
        return told


def _text(step: TurnStep) -> str:
    return "".join(event.text for event in step.events if isinstance(event, ContentText))
