"""The page at `/`: try policies on photos; and at `/review`, where a scan is reviewed. Plain HTML, CSS and ES modules.

There is no build step and nothing from elsewhere: the pages work offline, and their Content-Security-Policy lets them
load and call this server alone. They need no API key themselves; what they ask for under /v1 does.

    index.html   try.js: panel.js a policy and its sliders, card.js a photo and its verdicts
    review.html  review.js: stage.js the image that is looked at
    style.css    both; api.js, blur.js, dom.js, verdict.js, policy_yaml.js: what they share
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from fastapi import FastAPI, Request, Response

FOLDER = Path(__file__).parent
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
         ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
HEADERS = {
    # blob: the photos that a person drops, and those that were fetched with an API key
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
                               "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
REVIEW_LINK = b'<a href="review">Review a scan</a>'  # of the header; taken out where no scan is reviewed


def add_page(app: FastAPI) -> None:
    """Serve the page at `/` and the files that it loads at `/page/…`."""

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    def index(request: Request) -> Response:
        return page(request, "index.html", has_review=getattr(app.state, "has_review", False))

    @app.get("/page/{name}", include_in_schema=False)
    def file(request: Request, name: str) -> Response:
        if name not in _files() or name.endswith(".html"):
            return Response(status_code=404)
        return page(request, name)


def page(request: Request, name: str, has_review: bool = True) -> Response:
    """One of the files of this folder."""
    content = _files()[name] if has_review else _files()[name].replace(REVIEW_LINK, b"")
    headers = HEADERS | {"ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=TYPES[Path(name).suffix])


@cache
def _files() -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in FOLDER.iterdir() if file.suffix in TYPES}
