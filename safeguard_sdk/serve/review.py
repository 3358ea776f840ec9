"""Reviewing a finished scan over HTTP: its rows, their pictures, and what a reviewer decides. docs/page.md has the use.

    GET    /v1/review                       what the scan is and how far its review
    GET    /v1/review/rows                  a page of rows: ?label= rule= low= high= reviewed= order= after= limit=
    GET    /v1/review/rows/{id}/thumbnail   a JPEG; likewise …/picture, larger
    PUT    /v1/review/rows/{id}             {"decision": "agree"}, {"decision": "unsure"}, or {"decision": "disagree",
                                            "broken": [every rule that the image does break]}
    DELETE /v1/review/rows/{id}             takes the decision back
    PUT    /v1/review/index.csv             writes the reviews as labelled photos; GET downloads what was written

A row is reached by its id alone, and an id that is not of this scan is 404: no request names a file.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from safeguard_sdk.errors import ScanError
from safeguard_sdk.scan.rows import Row, item_name
from safeguard_sdk.serve.bodies import read_short_body
from safeguard_sdk.serve.failures import RequestError
from safeguard_sdk.serve.page import page
from safeguard_sdk.serve.review_export import INDEX, Export, export_reviews
from safeguard_sdk.serve.review_pictures import picture_of
from safeguard_sdk.serve.review_rows import Question, ScanRows
from safeguard_sdk.serve.reviews import Review, Reviews
from safeguard_sdk.serve.schemas import FAILURES, Decision

MOST_ROWS = 200   # on one page
TOLD_LEFT_OUT = 20
DECISION_BYTES = 64 << 10  # of the body that makes one
DECISION_BODY = {"requestBody": {"required": True, "content": {"application/json": {
    "schema": Decision.model_json_schema()}}}}
PRIVATE = {"Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin",
           "X-Content-Type-Options": "nosniff"}


def add_review(app: FastAPI, folder: Path) -> None:
    """Let the app show a finished scan and keep what reviewers decide. Raises ScanError: no such scan, or another
    process reviews it."""
    app.include_router(_router(ScanReview(folder)))
    app.state.has_review = True

    @app.head("/review", include_in_schema=False)
    @app.get("/review", include_in_schema=False)
    def review_page(request: Request) -> Response:
        return page(request, "review.html")


class ScanReview:
    """A scan and its reviews, open together."""

    def __init__(self, folder: Path) -> None:
        self.rows = ScanRows(folder)
        self._deciding = threading.Lock()
        try:
            self.reviews = Reviews(folder)
        except ScanError:
            self.rows.close()
            raise
        try:
            self._changed = self._recall()
        except ScanError:
            self.close()
            raise

    def close(self) -> None:
        self.reviews.close()
        self.rows.close()

    def row(self, identity: str) -> Row:
        if (row := self.rows.row(identity)) is None:
            raise RequestError(404, "not_found", "this scan has no such row")
        return row

    def decide(self, identity: str, decision: str | None, broken: list[str] | None) -> Row:
        """Keep a decision on the disk, then here."""
        row = self.row(identity)
        if decision is not None:
            broken = self._broken(row, decision, broken)
        with self._deciding:  # so that both have the decisions about an image in one order
            try:
                self.reviews.add(Review.now(row, decision, broken))
            except OSError as error:
                raise RequestError(507, "not_saved", f"the review could not be saved ({error.strerror}); see to the "
                                                     "disk and decide again") from error
            self.rows.decide(identity, decision, broken)
            self._changed.discard(identity)
        return self.row(identity)

    def counts(self) -> dict[str, dict[str, int] | int]:
        """How many rows have each label, each decision, and decisions about an earlier content of their file alone."""
        return self.rows.counts() | {"changed": len(self._changed)}

    def export(self) -> Export:
        """Raises OSError."""
        with self._deciding:
            changed = [self.row(identity) for identity in sorted(self._changed)]
        return export_reviews(self.rows, changed, self.reviews.folder)

    def _recall(self) -> set[str]:
        """Take up what was decided about the files as the scan has read them. The ids of rows with other decisions."""
        others = set()
        for review in self.reviews:
            if (row := self.rows.row(review.id)) is None:
                continue
            if review.sha256 and review.sha256 == row["sha256"]:
                self.rows.decide(review.id, review.decision, review.broken)
            elif review.decision is None:
                others.discard(review.id)
            else:
                others.add(review.id)
        return {identity for identity in others if self.rows.row(identity)["decision"] is None}

    def _broken(self, row: Row, decision: str, broken: list[str] | None) -> list[str] | None:
        """All rules that the image breaks, by this decision, in the policy's order. Raises RequestError."""
        if row["label"] is None:
            raise RequestError(409, "no_verdict", f"{item_name(row)}: has no verdict to agree with; it could not be "
                                                  "judged")
        claimed = self.rows.claimed(row)
        if decision != "disagree":
            if broken is not None:
                raise RequestError(400, "bad_request", f'"broken" goes with "disagree" only, not with "{decision}"')
            return claimed if decision == "agree" else None
        if broken is None:
            raise RequestError(400, "bad_request", '"disagree" goes with "broken", the list of all rules that the '
                                                   "image does break; it may be empty")
        rules = [rule.id for rule in self.rows.policy.rules]
        if unknown := sorted(set(broken) - set(rules)):
            raise RequestError(400, "bad_request", f"the policy has no rule {', '.join(unknown)}; its rules are "
                                                   f"{', '.join(rules)}")
        broken = [rule for rule in rules if rule in broken]
        if broken == claimed:
            raise RequestError(400, "bad_request", "these are the rules that the verdict names; agree with it, or say "
                                                   "which others the image breaks")
        return broken

    def told(self, row: Row) -> dict:
        """A row as JSON: bytes and places in the parts are left out."""
        failure = None if row["label"] else {"kind": row["failure_kind"], "message": row["failure"]}
        return {"id": row["id"], "name": item_name(row), "sha256": row["sha256"], "label": row["label"],
                "score": row["score"], "rule": row["rule"], "rules": row["rules"], "frame": row["frame"],
                "claimed": self.rows.claimed(row) if row["label"] else [], "failure": failure,
                "decision": row["decision"], "broken": row["broken"]}


def _router(review: ScanReview) -> APIRouter:
    @asynccontextmanager
    async def closing(app: FastAPI) -> AsyncIterator[None]:
        yield
        review.close()

    router = APIRouter(prefix="/v1/review", tags=["review"], lifespan=closing, responses=FAILURES)
    rows = review.rows

    @router.get("")
    def scan() -> Response:
        policy = rows.policy
        return _json({
            "folder": str(rows.folder.path), "rows": sum(part.rows for part in rows.folder.parts), **review.counts(),
            "bundle": rows.folder.facts["bundle"], "exported": (review.reviews.folder / INDEX).exists(),
            "policy": {"name": policy.name, "version": policy.version, "sha256": policy.sha256,
                       "rules": [asdict(rule) for rule in policy.rules]}})

    @router.get("/rows")
    def rows_of_page(
        label: Literal["safe", "review", "unsafe", "failed"] | None = None,
        rule: str | None = None,
        low: Annotated[float, Query(ge=0, le=1)] = 0,
        high: Annotated[float, Query(ge=0, le=1)] = 1,
        reviewed: bool | None = None,
        order: Literal["gravest", "mildest", "random"] = "gravest",
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 48,
    ) -> Response:
        if rule is not None and rule not in {one.id for one in rows.policy.rules}:
            raise RequestError(400, "bad_request", f"the policy of this scan has no rule {rule!r:.60}")
        try:
            found = rows.page(Question(label, rule, low, high, reviewed, order), after, limit)
        except ValueError as error:
            raise RequestError(400, "bad_request", f"after is {after!r:.60}, must be the next of an earlier page"
                              ) from error
        return _json({"rows": [review.told(row) for row in found.rows], "next": found.next,
                      "matching": found.matching, "reviewed": found.reviewed})

    @router.get("/rows/{identity}/{size}")
    def picture(identity: str, size: Literal["thumbnail", "picture"]) -> Response:
        row = review.row(identity)
        try:
            data = picture_of(row, rows, large=size == "picture")
        except (OSError, ValueError) as error:
            raise RequestError(500, "internal", f"{item_name(row)}: the part of the scan that has its thumbnail cannot "
                                                "be read any more; see to the disk") from error
        if data is None:
            raise RequestError(404, "not_found", f"{item_name(row)}: the scan has kept no picture of it, and its file "
                                                 "is not there as it was scanned")
        return Response(data, media_type="image/jpeg", headers=PRIVATE)

    @router.put("/rows/{identity}", openapi_extra=DECISION_BODY)
    async def decide(identity: str, request: Request) -> Response:
        made = _decision(await read_short_body(request, DECISION_BYTES))

        def answer() -> dict:
            return {"row": review.told(review.decide(identity, made.decision, made.broken)), **review.counts()}

        return _json(await run_in_threadpool(answer))

    @router.delete("/rows/{identity}")
    def take_back(identity: str) -> Response:
        return _json({"row": review.told(review.decide(identity, None, None)), **review.counts()})

    @router.put("/index.csv")
    def export() -> Response:
        try:
            done = review.export()
        except OSError as error:
            raise RequestError(507, "not_saved", f"index.csv could not be written ({error.strerror}); see to the disk"
                              ) from error
        return _json({"path": str(done.path), "photos": done.photos, "unsure": done.unsure,
                      "left_out": len(done.left_out), "reasons": done.left_out[:TOLD_LEFT_OUT]})

    @router.get("/index.csv")
    def download() -> Response:
        file = review.reviews.folder / INDEX
        if not file.is_file():
            raise RequestError(404, "not_found", "nothing has been exported yet; PUT this first")
        return Response(file.read_bytes(), media_type="text/csv; charset=utf-8", headers=PRIVATE)

    return router


def _decision(body: bytes) -> Decision:
    try:
        return Decision.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        raise RequestValidationError([first | {"loc": ("body", *first["loc"])}]) from error


def _json(content: dict) -> Response:
    return JSONResponse(content, headers=PRIVATE)

