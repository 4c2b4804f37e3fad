"""GET /v1/models: the one model, in the shapes of OpenAI's and Anthropic's lists at once.

Codex's own array `models` is left out on purpose: its entries would replace the instructions that Codex sends.
"""

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter

from stepahead.server.api_error import ApiError
from stepahead.server.fields import shown
from stepahead.server.service import LLMService


def router(service: LLMService) -> APIRouter:
    routes = APIRouter(tags=["Model"])
    created = datetime.now(UTC).replace(microsecond=0)

    def entry() -> dict[str, Any]:
        info, length = service.llm.llm.info, service.context_length
        return {
            "id": service.model_id,
            "object": "model",
            "created": int(created.timestamp()),
            "owned_by": "stepahead",
            "type": "model",
            "display_name": info.name,
            "created_at": created.isoformat().replace("+00:00", "Z"),
            "context_length": length,
            "max_model_len": length,
            "max_input_tokens": length,
            "max_tokens": length,
        }

    @routes.get("/v1/models", summary="The model that answers")
    async def models() -> dict[str, Any]:
        service.context_length  # noqa: B018 (raises while it is loading)
        names = {"first_id": service.model_id, "last_id": service.model_id}
        return {"object": "list", "data": [entry()], "has_more": False, **names}

    @routes.get("/v1/models/{name:path}", summary="The model, by its id")
    async def model(name: str) -> dict[str, Any]:
        service.context_length  # noqa: B018
        if name != service.model_id:
            raise ApiError(
                "not_found", f"the model {shown(name)} is not here: this server has one", "model", "model_not_found"
            )
        return entry()

    return routes
