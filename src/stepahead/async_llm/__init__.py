"""The engine behind an event loop."""

from stepahead.async_llm.async_llm import AsyncLLM, QueueFullError, QueueLimits, State, UnavailableError
from stepahead.async_llm.delivery import Collect, Delivery, PromptProgress, Ticket

__all__ = [
    "AsyncLLM",
    "Collect",
    "Delivery",
    "PromptProgress",
    "QueueFullError",
    "QueueLimits",
    "State",
    "Ticket",
    "UnavailableError",
]
