"""OpenAI's moderation endpoint, for clients that know no other: the categories are the rules of a policy.

    openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key=…).moderations.create(model="shop", input=[…])

source  POST /v1/moderations of openai/openai-openapi; where we depart from it stands in docs/serve.md
"""

from __future__ import annotations

import base64
import binascii
import json

from fastapi import APIRouter, Request

from safeguard_sdk.serve import schemas
from safeguard_sdk.serve.answering import verdict_of
from safeguard_sdk.serve.bodies import Hold, read_body, too_large
from safeguard_sdk.serve.failures import RequestError
from safeguard_sdk.serve.policies import Named, find_policy
from safeguard_sdk.serve.schemas import documented
from safeguard_sdk.serve.service import Service
from safeguard_sdk.verdict import Verdict, label_of

PATH = "/v1/moderations"
THEIR_MODELS = ("omni-moderation-", "text-moderation-")  # what clients send by default: the first policy
BESIDE_IMAGE = 64 << 10  # bytes of a request beside its image: JSON, texts

router = APIRouter()

BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": {
    "type": "object", "required": ["input"], "properties": {
        "model": {"type": "string", "description": "Name of a policy; the first one by default."},
        "input": {"type": "array", "items": {"type": "object"}}}},
    "example": {"model": "general", "input": [
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,…"}}]}}}}}


@router.post(PATH, openapi_extra=BODY,
             responses=documented(schemas.Moderations, schemas.ModerationFailed))
async def moderations(request: Request) -> dict:
    """Judge one image in OpenAI's shape: one item `image_url` with a `data:` URL; texts beside it are not judged."""

    async def read(request: Request, service: Service, hold: Hold) -> tuple[bytes, Named]:
        most = service.options.image_bytes * 4 // 3 + BESIDE_IMAGE
        body = await read_body(request, most, hold)
        url, model = await service.on_decoding_thread(parse_request, body)
        own = model is None or (model not in service.policies and model.startswith(THEIR_MODELS))
        named = find_policy(service.policies, None if own else model)
        if url[:5].lower() == "data:":
            image = await service.on_decoding_thread(decode_data_url, url)
        else:
            image = await request.app.state.fetcher.fetch(url, hold)
        if len(image) > service.options.image_bytes:
            raise too_large(service.options.image_bytes)
        return image, named

    verdict, named = await verdict_of(request, read)
    return {"id": f"modr-{request.state.request_id}", "model": named.name, "results": [result_of(verdict, named)]}


def parse_request(body: bytes) -> tuple[str, str | None]:
    """The URL of the one image in it, and the model. Raises RequestError."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _bad("the body is not JSON; send {\"input\": [{\"type\": \"image_url\", …}]}") from error
    if not isinstance(document, dict):
        raise _bad("the body is not a JSON object; send {\"input\": [{\"type\": \"image_url\", …}]}")
    model, parts = document.get("model"), document.get("input")
    if not isinstance(model, str | None):
        raise _bad("model is no text; name a policy, or leave it out")
    if isinstance(parts, str) or (isinstance(parts, list) and parts and all(isinstance(one, str) for one in parts)):
        raise _bad("input is text alone, and only images are judged here; send an item of type image_url")
    if not isinstance(parts, list) or not all(isinstance(one, dict) for one in parts):
        raise _bad("input must be a list of items, each {\"type\": \"image_url\", …} or {\"type\": \"text\", …}")
    urls = []
    for number, part in enumerate(parts):
        match part:
            case {"type": "image_url", "image_url": {"url": str(url)}}:
                urls.append(url)
            case {"type": "text", "text": str()}:
                pass
            case _:
                raise _bad(f"input[{number}] is neither an image_url with a url nor a text")
    if not urls:
        raise _bad("input holds no image, and only images are judged here; send an item of type image_url")
    if len(urls) > 1:
        raise _bad(f"input holds {len(urls)} images, and a request has one result; send a request for each")
    return urls[0], model


def decode_data_url(url: str) -> bytes:
    """The bytes in "data:image/png;base64,…"; what they are is known by the bytes. Raises RequestError."""
    head, comma, data = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise _bad("a data: URL must be base64: data:image/jpeg;base64,…")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _bad("the data: URL is not base64 throughout; encode the file again") from error


def result_of(verdict: Verdict, named: Named) -> dict:
    """One of `results`. What a policy wants reviewed is flagged, as for the exit status of `safeguard check`."""
    rules = named.policy.rules
    return {
        "flagged": verdict.label != "safe",
        "categories": {rule.id: label_of(verdict.rules[rule.id], rule) != "safe" for rule in rules},
        "category_scores": {rule.id: verdict.rules[rule.id] for rule in rules},
        "category_applied_input_types": {rule.id: ["image"] for rule in rules},
        "label": verdict.label, "rule": verdict.rule, "policy": named.identity(),
        "bundle_sha256": verdict.bundle_sha256, "prompt_sha256": verdict.prompt_sha256,
    }


def error_as_json(error: RequestError) -> dict:
    """In OpenAI's shape, with the kind as its code."""
    family = "server_error" if error.status >= 500 else "invalid_request_error"
    return {"error": {"message": str(error), "type": family, "param": None, "code": error.kind, "kind": error.kind}}


def _bad(message: str) -> RequestError:
    return RequestError(400, "bad_request", message)
