"""/health and /props: how the server is, and what it serves."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response

from stepahead import __version__, demo
from stepahead.server.service import LLMService
from stepahead.server.wire import compact

_DEMO = Path(demo.__file__).with_name("demo.gguf")
_TEXTS = {"loading": "Loading model", "draining": "Shutting down", "failed": "The engine failed", "closed": "Closed"}


def router(service: LLMService) -> APIRouter:
    routes = APIRouter(tags=["Sight"])

    @routes.get("/health", summary="200 when requests are taken; needs no key")
    async def health() -> Response:
        state = service.llm.state
        if state == "ready":
            return Response(compact({"status": "ok"}), media_type="application/json")
        error = {"code": 503, "message": _TEXTS[state], "type": "unavailable_error"}
        body = compact({"error": error, "status": state})
        return Response(body, 503, {"retry-after": "2"}, media_type="application/json")

    @routes.get("/props", summary="What is served: limits, template, heads; no path of the machine")
    async def props() -> dict[str, Any]:
        length = service.context_length
        llm = service.llm.llm
        draft = llm.model.draft
        temperature = service.config.endpoints.default_temperature
        return {
            "default_generation_settings": {"n_ctx": length, "temperature": temperature},
            "total_slots": llm.config.max_num_seqs,
            "model_path": Path(llm.info.path).name,
            "model_alias": service.model_id,
            "chat_template": llm.tokenizer.chat_template or "",
            "modalities": {"vision": False, "audio": False},
            "build_info": f"stepahead {__version__}",
            "is_sleeping": False,
            "context_length": length,
            "has_chat_template": service.renderer.template is not None,
            "is_demo": Path(llm.info.path) == _DEMO,  # it has a template, and no manners: it completes code
            "template_arguments": sorted(service.renderer.arguments),
            "model_name": llm.info.name,
            "architecture": llm.info.arch,
            "num_heads": 0 if draft is None else draft.num_heads,
            "max_choices": service.config.max_choices,
        }

    return routes
