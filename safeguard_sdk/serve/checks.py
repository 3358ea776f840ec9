"""The routes of the service's own interface: policies, and checks of one image each."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from safeguard_sdk.policy_review import review_policy
from safeguard_sdk.record import Record
from safeguard_sdk.serve import schemas
from safeguard_sdk.serve.answering import verdict_of, within_limits
from safeguard_sdk.serve.bodies import Hold, read_body, read_upload
from safeguard_sdk.serve.failures import RequestError
from safeguard_sdk.serve.policies import Named, find_policy, read_inline_policy
from safeguard_sdk.serve.schemas import documented
from safeguard_sdk.serve.service import Service
from safeguard_sdk.verdict import Verdict

router = APIRouter(prefix="/v1")

PolicyQuery = Annotated[str | None, Query(description="Name of a policy; the first one by default.")]
IMAGE = {"type": "string", "format": "binary", "description": "The file of an image, of any format that is read here."}
CHECK_BODY = {"requestBody": {"required": True, "content": {
    "image/*": {"schema": IMAGE},
    "multipart/form-data": {"schema": {"type": "object", "required": ["image"], "properties": {
        "image": IMAGE,
        "policy": {"type": "string", "description": "A policy in YAML or in plain words, in place of ?policy; only "
                                                    "where the service allows it."}}}}}}}
POLICY_BODY = {"requestBody": {"required": True, "content": {"text/plain": {"schema": {
    "type": "string", "example": "No weapons. Kitchen knives are fine."}}}}}


@router.get("/policies", responses=documented(schemas.Policies))
async def policies(request: Request) -> dict:
    """The policies that images can be judged by, the first being that of requests that name none."""
    service: Service = request.app.state.service
    return {"policies": [named.as_json() for named in service.policies.values()],
            "inline_policies": service.options.inline_policies}


@router.post("/check", openapi_extra=CHECK_BODY, responses=documented(schemas.Check))
async def check(request: Request, policy: PolicyQuery = None) -> dict:
    """Judge one image: the body is its file, or a form with the field `image`."""

    async def read(request: Request, service: Service, hold: Hold) -> tuple[bytes, Named]:
        named = find_policy(service.policies, policy)
        options = service.options
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            return await read_body(request, options.image_bytes, hold), named
        upload = await read_upload(request, options.image_bytes, options.policy_bytes, hold)
        if upload.policy is not None:
            if policy is not None:
                raise RequestError(400, "bad_request", "the request names a policy and brings one; leave one of the "
                                                       "two out")
            named = await _inline(service, upload.policy)
        return upload.image, named

    verdict, named = await verdict_of(request, read)
    return verdict_as_json(verdict, named)


@router.post("/policies/check", openapi_extra=POLICY_BODY, responses=documented(schemas.CheckedPolicy))
async def check_policy(request: Request) -> dict:
    """Read a policy without judging by it: its rules, itself as YAML, and what looks like a mistake."""
    service: Service = request.app.state.service

    async def work(hold: Hold) -> Named:
        _refuse_unless_allowed(service)
        return await _inline(service, await read_body(request, service.options.policy_bytes, hold))

    named = await within_limits(service, work)
    engine = service.engine
    findings = review_policy(named.policy, lambda text: engine.count_tokens(engine.bundle.style.prefix(text)),
                             engine.bundle.max_policy_tokens)
    return named.as_json() | {"yaml": named.policy.to_yaml(), "warnings": [str(finding) for finding in findings]}


def verdict_as_json(verdict: Verdict, named: Named) -> dict:
    """As `safeguard check --json` has it, with the policy in place of the path."""
    row = Record("", verdict).as_json()
    return {key: value for key, value in row.items() if key not in ("path", "error")} | {"policy": named.identity()}


async def _inline(service: Service, policy: bytes) -> Named:
    _refuse_unless_allowed(service)
    return await service.on_decoding_thread(read_inline_policy, policy, service.options, service.engine)


def _refuse_unless_allowed(service: Service) -> None:
    if not service.options.inline_policies:
        raise RequestError(403, "not_allowed", "this service judges by its own policies alone; name one of them with "
                                               "?policy=, or have it started with --allow-inline-policies")
