"""What an endpoint asks of the engine for one turn, wire format gone: the same for all of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stepahead.engine.params import SamplingParams, Speculation
from stepahead.turns.output_format import OutputFormat
from stepahead.turns.tool import Tool, ToolChoice


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """A conversation to be continued by one turn of the assistant.

    messages: as chat templates expect them: role ("system", "user", "assistant", "tool"), content (text), and of an
    assistant's turn reasoning_content and tool_calls ({"id", "type": "function", "function": {"name", "arguments"}},
    arguments as an object, or as the text that the client sent, see turns/history.py), of a tool's turn
    tool_call_id. params.stop: of content alone; params.n is 1, params.grammar None.
    """

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Tool, ...] = ()
    late_tools: tuple[Tool, ...] = ()  # may be called too; the messages describe them, the head of the prompt does not
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    output_format: OutputFormat | None = None
    params: SamplingParams = field(default_factory=SamplingParams)
    speculation: Speculation = field(default_factory=Speculation)
    template_args: Mapping[str, Any] = field(default_factory=dict)  # such as reasoning_effort
    num_choices: int = 1  # each with a seed of its own: seed, seed + 1 ...
    tells_steps: bool = False  # each step is told by itself; else short ones may be told together
    cache_salt: str = ""  # the client's own, see server/cache_salt.py
    buffers_calls: bool = False  # nobody sees the answer grow, so that half a call can still become text

    @property
    def callable_tools(self) -> tuple[Tool, ...]:
        return (*self.tools, *self.late_tools)
