"""The application: all endpoints of one service behind one guard, and what is said where there is none."""

import importlib.util
from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from stepahead import __version__
from stepahead.server import chat_completions, completions, docs_page, metrics, models, status, tokens
from stepahead.server.api_error import ApiError, Kind
from stepahead.server.errors import error_response, status_of, unexpected
from stepahead.server.guard import Guard
from stepahead.server.openapi import ERROR_SCHEMA, complete_operation, error_responses
from stepahead.server.request_context import REQUEST_ID
from stepahead.server.service import LLMService

_KINDS: dict[int, Kind] = {404: "not_found", 405: "method_not_allowed"}
_TEXTS = {404: "there is no such path; /docs lists them", 405: "this path has other methods; Allow names them"}


def make_app(service: LLMService) -> Guard:
    """An ASGI application. Starting and ending the engine is for whoever runs it (server/transport.py)."""
    app = FastAPI(
        title="stepahead",
        version=__version__,
        docs_url=None,  # the framework's pages fetch their scripts from elsewhere
        redoc_url=None,
        openapi_url=None,
        responses=error_responses(),
        redirect_slashes=False,
    )
    routers = list(_routers(service))
    for router in routers:
        app.include_router(router)
    routers.append(docs_page.router(_document(app)))
    app.include_router(routers[-1])
    app.state.routers = routers
    app.add_exception_handler(ApiError, _answer_api_error)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(Exception, _answer_fault)
    return Guard(app, service.config, service.metrics.responses)


def _routers(service: LLMService) -> Iterable[APIRouter]:
    settings = service.config.endpoints
    yield chat_completions.router(service, settings)
    yield completions.router(service, settings)
    for name in ("responses", "messages"):
        if (module := _optional(name)) is not None:
            yield module.router(service, settings)
    yield models.router(service)
    yield tokens.router(service, settings)
    yield status.router(service)
    yield metrics.router(metrics.MetricsCollector(service.llm, service.metrics, service.model_id))
    if (page := _optional("page")) is not None:
        yield page.router()


def _optional(name: str) -> Any:
    """A module of this folder, if this installation has it."""
    full_name = f"stepahead.server.{name}"
    return importlib.import_module(full_name) if importlib.util.find_spec(full_name) is not None else None


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary="A local model that drafts ahead of itself, behind the APIs that clients know.",
        routes=app.routes,
    )
    document.setdefault("components", {}).setdefault("schemas", {})["Error"] = dict(ERROR_SCHEMA)
    for path, methods in document["paths"].items():
        for operation in methods.values():
            complete_operation(path, operation)
            operation.get("responses", {}).pop("422", None)  # wrong values are 400 here
            if path.startswith("/v1/messages"):
                operation["responses"]["529"] = operation["responses"]["503"]
    return document


async def _answer_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error, request.url.path, REQUEST_ID.get())


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    """Of the framework: paths and methods that there are none of."""
    assert isinstance(error, HTTPException)
    kind = _KINDS.get(error.status_code, "invalid_request")
    said = ApiError(kind, _TEXTS.get(error.status_code, "the request is wrong"))
    response = error_response(said, request.url.path, REQUEST_ID.get())
    if error.status_code == 405:
        response.headers["allow"] = ", ".join(sorted(_methods(request)))
    assert response.status_code == status_of(said, request.url.path)
    return response


async def _answer_fault(request: Request, error: Exception) -> Response:
    """The guard logs it: the framework raises it again."""
    return error_response(unexpected(), request.url.path, REQUEST_ID.get())


def _methods(request: Request) -> set[str]:
    """What the path has, of all its routes."""
    found: set[str] = set()
    routes = [one for router in request.app.state.routers for one in router.routes if isinstance(one, Route)]
    exact = [route for route in routes if route.path == request.url.path]
    for route in exact or routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return found | {"HEAD"} if "GET" in found else found
