"""/docs and /openapi.json: the API as a page of its own, which fetches nothing."""

import html
import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Response

_HEADERS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'", "cache-control": "no-cache"}
_STYLE = """
:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code{font-family:ui-monospace,monospace}h2{margin-top:2.5rem}summary{cursor:pointer;padding:.3rem 0}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1rem}td{border-top:1px solid #8884;padding:.25rem .5rem;
vertical-align:top}td:first-child{white-space:nowrap}b{display:inline-block;min-width:3.5rem}
"""


def router(document: Mapping[str, Any]) -> APIRouter:
    routes = APIRouter(include_in_schema=False)
    page = render(document).encode()
    data = json.dumps(document).encode()

    @routes.get("/docs")
    async def docs() -> Response:
        return Response(page, headers=_HEADERS, media_type="text/html")

    @routes.get("/openapi.json")
    async def openapi() -> Response:
        return Response(data, media_type="application/json")

    return routes


def render(document: Mapping[str, Any]) -> str:
    """The page."""
    by_tag: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            tag = (operation.get("tags") or ["Other"])[0]
            by_tag.setdefault(tag, []).append(_operation(method, path, operation))
    sections = "".join(f"<h2>{html.escape(tag)}</h2>{''.join(items)}" for tag, items in by_tag.items())
    title = f"{html.escape(document['info']['title'])} {html.escape(document['info']['version'])}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>"
        f"<p>{html.escape(document['info'].get('summary', ''))} "
        f'The document for machines: <a href="/openapi.json">/openapi.json</a>.</p>{sections}</body></html>'
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    title = f"<b>{method.upper()}</b> <code>{html.escape(path)}</code> {html.escape(operation.get('summary', ''))}"
    content = operation.get("requestBody", {}).get("content", {})
    fields = content.get("application/json", {}).get("schema", {}).get("properties", {})
    rows = "".join(
        f"<tr><td><code>{html.escape(name)}</code></td><td>{html.escape(about.get('description', ''))}</td></tr>"
        for name, about in fields.items()
    )
    if not rows:
        return f"<p>{title}</p>"
    return f"<details><summary>{title}</summary><table>{rows}</table></details>"
