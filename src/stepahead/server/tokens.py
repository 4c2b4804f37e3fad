"""/tokenize, /detokenize and /apply-template: what a prompt becomes, before it costs anything."""

from typing import Any

from fastapi import APIRouter, Request

from stepahead.server.body import read_object
from stepahead.server.chat_request import CHAT_FIELDS, read_chat
from stepahead.server.endpoint import EndpointSettings
from stepahead.server.fields import Fields, FieldTable
from stepahead.server.openapi import body_schema
from stepahead.server.service import LLMService

MAX_TOKENS = 1 << 22
TOKENIZE_FIELDS = FieldTable(
    honoured={
        "content": "text to cut into tokens (llama.cpp's name)",
        "prompt": "the same (vLLM's name)",
        "messages": "a conversation instead of a text, with `tools` and whatever else a chat completion takes",
        "add_special": "puts the model's first token in front; default true for text",
        "add_special_tokens": "the same (vLLM's name)",
        "parse_special": "control tokens are recognised in the text; default true",
        "with_pieces": "each token with its text",
        "return_token_strs": "the texts of the tokens (vLLM's name)",
    },
    hints={"model": ""},
)
DETOKENIZE_FIELDS = FieldTable(honoured={"tokens": "token ids"}, hints={"model": ""})


def router(service: LLMService, settings: EndpointSettings) -> APIRouter:
    routes = APIRouter(tags=["Tokens"])

    @routes.post("/tokenize", summary="Text or a conversation to tokens", openapi_extra=body_schema(TOKENIZE_FIELDS))
    async def tokenize(request: Request) -> dict[str, Any]:
        body = await read_object(request)
        fields = Fields(body)
        length = service.context_length
        if fields.has("messages"):
            ids = await _conversation_ids(service, settings, body)
        else:
            TOKENIZE_FIELDS.check(body, settings.unknown_fields)
            ids = await _text_ids(service, fields)
        found: dict[str, Any] = {"tokens": ids, "count": len(ids), "max_model_len": length}
        texts = [service.llm.llm.tokenizer.decode([one]) for one in ids]
        if fields.boolean("return_token_strs"):
            found["token_strs"] = texts
        if fields.boolean("with_pieces"):
            found["tokens"] = [{"id": one, "piece": text} for one, text in zip(ids, texts, strict=True)]
        return found

    @routes.post("/detokenize", summary="Tokens to text", openapi_extra=body_schema(DETOKENIZE_FIELDS, ("tokens",)))
    async def detokenize(request: Request) -> dict[str, Any]:
        body = await read_object(request)
        DETOKENIZE_FIELDS.check(body, settings.unknown_fields)
        service.context_length  # noqa: B018 (raises while it is loading)
        ids = Fields(body).list("tokens", MAX_TOKENS)
        if ids is None:
            raise Fields(body).wrong("tokens", "must be a list of token ids")
        text = await service.in_worker(lambda: service.llm.llm.detokenize(ids))
        return {"content": text, "prompt": text}

    @routes.post(
        "/apply-template",
        summary="A conversation to the text that the model is given",
        openapi_extra=body_schema(CHAT_FIELDS, ("messages",)),
    )
    async def apply_template(request: Request) -> dict[str, Any]:
        asked = read_chat(await read_object(request), settings)
        rendered = await service.render(asked.turn)
        # The text alone cannot show which of two equal spellings is a control token.
        segments = [{"text": text, "token": token_id} for text, token_id in rendered.segments]
        return {"prompt": rendered.text, "segments": segments}

    return routes


async def _conversation_ids(service: LLMService, settings: EndpointSettings, body: dict[str, Any]) -> list[int]:
    asked = {name: value for name, value in body.items() if name in CHAT_FIELDS.honoured}
    rendered = await service.render(read_chat(asked, settings).turn)
    return list(rendered.ids)


async def _text_ids(service: LLMService, fields: Fields) -> list[int]:
    name = "content" if fields.has("content") else "prompt"
    text = fields.string(name)
    if text is None:
        raise fields.wrong(name, "must be a string")
    add = fields.boolean("add_special", fields.boolean("add_special_tokens", True))
    parse = fields.boolean("parse_special", True)
    tokenizer = service.llm.llm.tokenizer
    return await service.in_worker(lambda: tokenizer.encode(text, add_bos=None if add else False, parse_special=parse))
