"""The page on which people label pairs, for this machine alone: http://127.0.0.1:PORT.

Photos are blurred until they are asked for. Which half of a pair is the edit is not shown: the sides are dealt by a
hash, for each annotator anew, and photos are known to the page by their hash alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from pydantic import BaseModel
from starlette.middleware.trustedhost import TrustedHostMiddleware

from benchmarks.errors import BenchmarkError
from benchmarks.safeeditbench.annotations import Annotations, Question
from benchmarks.safeeditbench.build import Pair

PAGE = Path(__file__).with_name("page.html")
HEADERS = {"Content-Security-Policy": "default-src 'none'; img-src 'self'; connect-src 'self'; "
                                      "style-src 'unsafe-inline'; script-src 'unsafe-inline'",
           "Cache-Control": "no-store"}


class Answer(BaseModel):
    who: str
    photo: str   # SHA-256 of the file, as the page knows it
    policy: str
    label: str


def serve(annotations: Annotations, port: int) -> None:
    """Until interrupted."""
    uvicorn.run(create_app(annotations), host="127.0.0.1", port=port, log_level="warning")


def create_app(annotations: Annotations) -> FastAPI:
    # Without a schema page: it would load its script from elsewhere.
    app = FastAPI(title="SafeEditBench", docs_url=None, redoc_url=None, openapi_url=None)
    # A web page elsewhere may point a name of its own at this machine; under such a name nothing is served.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    names = {digest: Path(file).name for pair in annotations.pairs
             for digest, file in ((pair.original_sha256, pair.original), (pair.edited_sha256, pair.edited))}
    digests = {name: digest for digest, name in names.items()}

    @app.exception_handler(BenchmarkError)
    def refuse(request: Request, error: BenchmarkError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=400)

    @app.get("/")
    def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers=HEADERS)

    @app.get("/photos/{digest}")
    def photo(digest: str) -> FileResponse:
        if digest not in names:
            raise BenchmarkError(f"no photo {digest}")
        return FileResponse(annotations.photos[names[digest]], headers={"Cache-Control": "private, max-age=3600"})

    @app.get("/work")
    def work(who: str) -> dict:
        """All pairs, and what this annotator has said of them."""
        mine = {question: labels[who] for question, labels in annotations.labels().items() if who in labels}
        return _work(annotations, who, annotations.pairs, {digests[photo] + " " + policy: label
                                                           for (photo, policy), label in mine.items()}, None)

    @app.get("/disputes")
    def disputes(who: str) -> dict:
        """The pairs with a question that annotators disagree on, what they said, and what was decided."""
        disputed = annotations.disputed()
        photos, labels, decided = {photo for photo, _ in disputed}, annotations.labels(), annotations.decisions()
        pairs = [pair for pair in annotations.pairs
                 if {Path(pair.original).name, Path(pair.edited).name} & photos]
        key = {question: f"{digests[question[0]]} {question[1]}" for question in disputed}
        return _work(annotations, who, pairs,
                     {key[question]: decided[question] for question in disputed if question in decided},
                     {key[question]: labels[question] for question in disputed})

    @app.post("/labels")
    def label(answer: Answer) -> dict:
        annotations.answer(answer.who, _question(answer), answer.label)
        return {}

    @app.post("/decisions")
    def decision(answer: Answer) -> dict:
        annotations.decide(answer.who, _question(answer), answer.label)
        return {}

    @app.get("/agreement")
    def agreement() -> dict:
        return {name: asdict(one) for name, one in annotations.agreement().items()}

    def _question(answer: Answer) -> Question:
        return names.get(answer.photo, answer.photo), answer.policy

    return app


def _work(annotations: Annotations, who: str, pairs: list[Pair], labels: dict[str, str],
          votes: dict[str, dict[str, str]] | None) -> dict:
    """What the page shows. `labels` and `votes` by "SHA-256 policy"; `votes` are the questions there are, or None for
    all of them."""
    if not who.strip():
        raise BenchmarkError("say who you are: your name stands beside your labels")
    policies = [{"name": name, "rules": [{"title": rule.title, "forbids": rule.forbids, "allows": rule.allows}
                                         for rule in policy.rules]} for name, policy in annotations.policies.items()]
    return {"pairs": [_sides(pair, who) for pair in pairs], "policies": policies, "labels": labels, "votes": votes}


def _sides(pair: Pair, who: str) -> list[str]:
    sides = [pair.original_sha256, pair.edited_sha256]
    return sides[::-1] if hashlib.sha256(f"{who} {pair.name}".encode()).digest()[0] % 2 else sides
