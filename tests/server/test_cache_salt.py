"""What was computed for one key is found by no other, in time or in usage; a client may set its requests apart, too."""

import asyncio
import re

import pytest

from stepahead.server.api_error import ApiError
from stepahead.server.cache_salt import mixed, read_salt
from stepahead.server.config import ApiKey, ServerConfig
from stepahead.server.fields import Fields
from stepahead.server.openapi import _TYPES
from support.served import in_process

ANN, BOB = ApiKey.of("secret", "same label"), ApiKey.of("other", "same label")
TEXT = "The same words, which are more than a block of tokens, so that there is something to be found. " * 2
CHAT = {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 2}
BODIES = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": TEXT, "max_tokens": 2},
    "/v1/responses": {"input": TEXT, "max_output_tokens": 2},
    "/v1/messages": CHAT,
}


def cached_tokens(path, usage):
    if path == "/v1/messages":
        return usage["cache_read_input_tokens"]
    details = usage["input_tokens_details" if path == "/v1/responses" else "prompt_tokens_details"]
    return details["cached_tokens"]


def found(chat_model, path, asked, **config):
    """cached_tokens of requests in their order: (key, fields)."""

    async def main():
        async with in_process(chat_model, **config) as one:
            told = []
            for secret, fields in asked:
                headers = {"authorization": f"Bearer {secret}"} if secret else {}
                answer = await one.client.post(path, json={**BODIES[path], **fields}, headers=headers)
                assert answer.status_code == 200, answer.text
                told.append(cached_tokens(path, answer.json()["usage"]))
            return told

    return asyncio.run(main())


@pytest.mark.parametrize("path", BODIES)
def test_keys_do_not_find_each_others(chat_model, path):
    asked = [("secret", {}), ("other", {}), ("secret", {}), ("other", {})]
    first, second, third, fourth = found(chat_model, path, asked, keys=(ANN, BOB))
    assert first == second == 0
    assert third == fourth > 64


def test_keys_share_where_the_operator_says_so(chat_model):
    asked = [("secret", {}), ("other", {})]
    first, second = found(chat_model, "/v1/completions", asked, keys=(ANN, BOB), shares_prefixes=True)
    assert first == 0 < second


def test_one_key_shares_with_itself(chat_model):
    first, second = found(chat_model, "/v1/completions", [("secret", {})] * 2, keys=(ANN,))
    assert first == 0 < second


@pytest.mark.parametrize("path", BODIES)
def test_a_salt_of_the_clients_own(chat_model, path):
    salts = [{}, {"cache_salt": "a"}, {"cache_salt": "b"}, {"cache_salt": "a"}, {"cache_salt": None}]
    told = found(chat_model, path, [("", fields) for fields in salts])
    assert told[:3] == [0, 0, 0]
    assert told[3] == told[4] > 64


def test_the_same_salt_of_two_keys_is_two_salts(chat_model):
    asked = [("secret", {"cache_salt": "s"}), ("other", {"cache_salt": "s"}), ("secret", {"cache_salt": "s"})]
    first, second, third = found(chat_model, "/v1/completions", asked, keys=(ANN, BOB))
    assert first == second == 0 < third


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("salt", ["", "a@b", "a/b", "a\\b", "a\0b", "x" * 129, 1, True, ["a"]])
def test_what_is_no_salt(chat_model, path, salt):
    async def main():
        async with in_process(chat_model) as one:
            return await one.client.post(path, json={**BODIES[path], "cache_salt": salt})

    answer = asyncio.run(main())
    assert answer.status_code == 400
    assert "cache_salt" in answer.json()["error"]["message"]


@pytest.mark.parametrize("salt", ["x", "x" * 128, "line\nbreak", "ünï", ":", "a:b"])
def test_what_is_a_salt(salt):
    assert read_salt(Fields({"cache_salt": salt})) == salt
    assert re.search(_TYPES["cache_salt"]["pattern"], salt)


def test_the_published_pattern_is_the_one_that_is_checked():
    for salt in ("a@b", "a/b", "a\\b", "a\0b"):
        assert not re.search(_TYPES["cache_salt"]["pattern"], salt)
        with pytest.raises(ApiError, match="must have 1 to 128 characters"):
            read_salt(Fields({"cache_salt": salt}))


def test_owners():
    several, one = ServerConfig(keys=(ANN, BOB)), ServerConfig(keys=(ANN, ApiKey.of("secret", "again")))
    assert several.owner(ANN) != several.owner(BOB)
    assert several.owner(ANN) == ServerConfig(keys=(BOB, ApiKey.of("secret", "renamed"))).owner(ANN)
    assert one.owner(ANN) == ""
    assert not ANN.digest.hex().startswith(several.owner(ANN))
    salts = {mixed(owner, salt) for owner in ("", "ab", "cd") for salt in ("", "ab", "ab:", ":ab")}
    assert len(salts) == 12
