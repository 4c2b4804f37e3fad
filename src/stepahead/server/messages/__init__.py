"""`/v1/messages`, the API of Anthropic that Claude Code speaks."""

from stepahead.server.messages.router import router

__all__ = ["router"]
