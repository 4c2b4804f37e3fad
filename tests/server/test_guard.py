"""Who may ask, from where, with what: keys, hosts and origins; paths and methods that there are none of."""

import asyncio

import httpx
import pytest

from stepahead.errors import ConfigError
from stepahead.server.app import make_app
from stepahead.server.config import KEYS_VARIABLE, ApiKey, ServerConfig, find_key, read_keys
from support.served import make_service

KEYS = (ApiKey.of("secret", "ann"), ApiKey.of("other", "bob"))
JSON = {"content-type": "application/json"}


def ask(chat_model, method, path, headers=None, content=None, **config):
    """The answer of a server whose model is still loading."""

    async def main():
        app = make_app(make_service(chat_model, **config))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost:8080") as client:
            return await client.request(method, path, headers=headers, content=content)

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("config", "headers", "status"),
    [
        ({}, {}, 503),
        ({}, {"host": "127.0.0.1:9"}, 503),
        ({}, {"host": "[::1]:8080"}, 503),
        ({}, {"host": "LOCALHOST"}, 503),
        ({}, {"host": "evil.example"}, 403),
        ({}, {"host": "127.0.0.1.evil.example:8080"}, 403),
        ({}, {"host": ""}, 403),
        ({}, {"host": "192.168.0.7"}, 403),
        ({"allowed_hosts": ("box.lan",)}, {"host": "box.lan:8080"}, 503),
        ({"keys": KEYS}, {"host": "evil.example", "x-api-key": "secret"}, 503),
        ({"keys": KEYS, "allowed_hosts": ("box",)}, {"host": "evil.example", "x-api-key": "secret"}, 403),
        ({"host": "0.0.0.0", "is_open": True}, {"host": "192.168.0.7:8080"}, 503),
        ({"host": "0.0.0.0", "is_open": True}, {"host": "evil.example"}, 403),
        ({}, {"origin": "http://localhost:8080"}, 503),
        ({}, {"origin": "http://localhost:3000"}, 403),
        ({}, {"origin": "null"}, 403),
        ({}, {"origin": "http://[evil"}, 403),
        ({"cors_origins": ("vscode-webview://x",)}, {"origin": "vscode-webview://x"}, 503),
        ({"keys": KEYS}, {}, 401),
        ({"keys": KEYS}, {"authorization": "Bearer secret"}, 503),
        ({"keys": KEYS}, {"authorization": "bearer other"}, 503),
        ({"keys": KEYS}, {"authorization": "Basic secret"}, 401),
        ({"keys": KEYS}, {"authorization": "Bearer secre"}, 401),
        ({"keys": KEYS}, {"authorization": "Bearer "}, 401),
        ({"keys": KEYS}, {"x-api-key": "other"}, 503),
        ({"keys": KEYS}, {"x-api-key": "wrong", "authorization": "Bearer secret"}, 503),
    ],
)
def test_who_may_ask(chat_model, config, headers, status):
    answer = ask(chat_model, "GET", "/v1/models", headers, **config)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert "secret" not in answer.text
    assert ("retry-after" in answer.headers) == (status == 503)


@pytest.mark.parametrize("path", ["/health", "/docs", "/openapi.json", "/"])
def test_what_needs_no_key(chat_model, path):
    assert ask(chat_model, "GET", path, keys=KEYS).status_code != 401


@pytest.mark.parametrize("path", ["/metrics", "/props", "/v1/models", "/tokenize", "/v1/messages"])
def test_what_needs_a_key(chat_model, path):
    answer = ask(chat_model, "GET", path, keys=KEYS)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["x-should-retry"] == "false"  # Claude Code asked for minutes
    shape = answer.json()
    assert (shape["error"]["type"] == "authentication_error") and ("type" in shape) == (path == "/v1/messages")


def test_preflights(chat_model):
    asked = {"origin": "https://app.example", "access-control-request-method": "POST"}
    allowed = ask(chat_model, "OPTIONS", "/v1/models", asked, cors_origins=("https://app.example",), keys=KEYS)
    assert allowed.status_code == 204
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    refused = ask(chat_model, "OPTIONS", "/v1/models", asked)
    assert refused.status_code == 403
    assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({}, b"{}", 415),
        ({"content-type": "text/plain"}, b"{}", 415),
        ({"content-type": "application/vnd.x+json"}, b"{}", 415),
        ({"content-type": "application/json; charset=utf-8"}, b"{}", 400),
        (JSON, b"{" * 10, 400),
        (JSON, b" " * 2000, 413),
        ({**JSON, "content-length": "99999999999"}, b"{}", 413),
        ({**JSON, "content-length": "9" * 30}, b"{}", 400),
        ({**JSON, "content-encoding": "br"}, b"{}", 415),
    ],
)
def test_bodies_that_are_not_taken(chat_model, headers, content, status):
    answer = ask(chat_model, "POST", "/v1/chat/completions", headers, content, max_body_bytes=1000)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


async def in_pieces():
    yield b"{}"


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({}, None, 404),
        ({}, b"", 404),
        ({"content-type": "text/plain"}, None, 404),
        ({"origin": "http://localhost:8080"}, None, 404),
        ({"origin": "https://evil.example"}, None, 403),
        ({"origin": "null"}, None, 403),
        ({}, b"{}", 415),
        ({}, in_pieces(), 415),
        ({"content-length": "x"}, b"{}", 415),
    ],
)
def test_what_has_no_body_needs_no_content_type(chat_model, headers, content, status):
    answer = ask(chat_model, "POST", "/v1/responses/resp_1/cancel", headers, content)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_an_endpoint_that_wants_a_body_says_so(chat_model):
    answer = ask(chat_model, "POST", "/v1/chat/completions")
    assert answer.status_code == 400 and "JSON" in answer.json()["error"]["message"]


def test_a_body_in_pieces_is_bounded_too(chat_model):
    async def pieces():
        for _ in range(100):
            yield b" " * 100

    answer = ask(chat_model, "POST", "/v1/chat/completions", JSON, pieces(), max_body_bytes=1000)
    assert answer.status_code == 413


def test_a_body_that_does_not_come(chat_model):
    async def pieces():
        yield b"{"
        await asyncio.sleep(5)

    answer = ask(chat_model, "POST", "/v1/completions", JSON, pieces(), body_seconds=0.05, max_body_bytes=1000)
    assert answer.status_code == 408


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/nope", 404, None),
        ("POST", "/v1/nope", 404, None),
        ("GET", "/v1/chat/completions/", 404, None),
        ("GET", "/v1/chat/completions", 405, "POST"),
        ("DELETE", "/v1/models", 405, "GET, HEAD"),
        ("TRACE", "/health", 405, "GET, HEAD"),
        ("PUT", "/metrics", 405, "GET, HEAD"),
        ("PATCH", "/v1/completions", 405, "POST"),
        ("PUT", "/v1/responses/input_tokens", 405, "POST"),
    ],
)
def test_paths_and_methods(chat_model, method, path, status, allow):
    answer = ask(chat_model, method, path, JSON, b"{}" if method == "POST" else None)
    assert answer.status_code == status
    assert answer.headers.get("allow") == allow
    assert answer.json()["error"]["type"] in ("not_found_error", "invalid_request_error")


def test_head_is_get_without_a_body(chat_model):
    answer = ask(chat_model, "HEAD", "/docs")
    assert answer.status_code == 200 and answer.content == b""
    assert int(answer.headers["content-length"]) > 1000


@pytest.mark.parametrize("given", ["abc-1.2_X", "bad id", "x" * 65, "é", ""])
def test_request_ids(chat_model, given):
    answer = ask(chat_model, "GET", "/health", {"x-request-id": given.encode()})
    is_kept = given == "abc-1.2_X"
    assert (answer.headers["x-request-id"] == given) == is_kept
    assert is_kept or answer.headers["x-request-id"].startswith("req_")


def test_a_fault_of_ours_tells_nothing(chat_model, monkeypatch, caplog):
    monkeypatch.setattr("stepahead.server.status._TEXTS", {})
    answer = ask(chat_model, "GET", "/health")
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "KeyError" not in answer.text and "loading" not in answer.text


def test_keys_are_read_from_files_and_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text("# ours\nann s3cret\n\nplain\n")
    monkeypatch.setenv(KEYS_VARIABLE, "one,")
    keys = read_keys(file)
    assert [key.label for key in keys] == ["key-1", "ann", "key-3"]
    assert find_key(keys, "s3cret") == keys[1] and find_key(keys, "one") == keys[0]
    assert find_key(keys, "ann") is None and find_key(keys, "\udcff") is None
    file.write_text("# nothing\n")
    with pytest.raises(ConfigError, match="has no key"):
        read_keys(file)
    file.write_text("a b c")
    with pytest.raises(ConfigError, match="3 words"):
        read_keys(file)
    with pytest.raises(ConfigError, match="No such file"):
        read_keys(tmp_path / "none")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"host": "0.0.0.0"}, "--api-key-file"),
        ({"host": "::"}, "--no-key"),
        ({"port": 70000}, "no port"),
        ({"cors_origins": ("*",)}, "keys"),
    ],
)
def test_unsafe_settings_are_refused(config, words):
    with pytest.raises(ConfigError, match=words):
        ServerConfig(**config)
    ServerConfig(host="::1")
