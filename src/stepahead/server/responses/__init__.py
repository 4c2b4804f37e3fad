"""`/v1/responses`, the API of OpenAI that Codex speaks."""

from stepahead.server.responses.router import router

__all__ = ["router"]
