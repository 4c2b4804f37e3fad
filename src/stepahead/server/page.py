"""The chat page: `/` and the files beside it under `/ui/`, from the package, with the headers that fence it in.

The files are read once. What is asked for is looked up among their names, so no path reaches the file system.
"""

import hashlib
from dataclasses import dataclass
from importlib import resources

from fastapi import APIRouter, Request, Response

MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# What the model says is not to be trusted, and may try to have a script run or an address fetched.
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"  # a browser that knows it refuses to parse text
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    content: bytes
    media_type: str
    etag: str


def load_files() -> dict[str, PageFile]:
    """Of the package's folder web, by name."""
    files = {}
    for entry in resources.files("stepahead.server").joinpath("web").iterdir():
        media_type = MEDIA_TYPES.get(entry.name.rpartition(".")[2])
        if media_type is None:
            continue
        content = entry.read_bytes()
        files[entry.name] = PageFile(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    return files


def router() -> APIRouter:
    """Needs nothing of the server: the page speaks to the endpoints as any client does."""
    files = load_files()
    routes = APIRouter(include_in_schema=False)

    async def front(request: Request) -> Response:
        return respond(request, files.get("index.html"))

    async def file(request: Request, name: str) -> Response:
        return respond(request, files.get(name))

    routes.add_api_route("/", front, methods=["GET", "HEAD"])
    routes.add_api_route("/ui/{name}", file, methods=["GET", "HEAD"])
    return routes


def respond(request: Request, file: PageFile | None) -> Response:
    if file is None:
        return Response("not found", 404, SECURITY_HEADERS, "text/plain; charset=utf-8")
    # Asked again on every visit, so that an upgraded server never meets a page half old and half new.
    headers = {**SECURITY_HEADERS, "ETag": file.etag, "Cache-Control": "no-cache"}
    if is_known(request.headers.get("if-none-match", ""), file.etag):
        return Response(status_code=304, headers=headers)
    return Response(file.content, 200, headers, file.media_type)


def is_known(if_none_match: str, etag: str) -> bool:
    known = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in known or "*" in known
