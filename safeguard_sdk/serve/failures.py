"""Why a request has no verdict: its HTTP status, one stable word, one line."""

from __future__ import annotations

from safeguard_sdk.errors import IMAGE_ERROR_KINDS, ImageError, PolicyError

IMAGE_STATUS = {"too_large": 413, "not_an_image": 415, "unsupported": 415}  # all other kinds of ImageError: 422

KINDS = (  # beside those of ImageError
    "bad_request",       # 400, a request that is not one of this service's
    "bad_policy",        # 400, a policy that cannot be used
    "url_refused",       # 400, an address that is not fetched
    "unauthorized",      # 401, no key or a wrong one
    "not_allowed",       # 403, switched off in this service
    "unknown_policy",    # 404
    "not_found",         # 404, no such route
    "method",            # 405
    "too_large",         # 413
    "queue_full",        # 429, with Retry-After
    "engine",            # 500, the engine failed
    "internal",          # 500, a fault of this service
    "url_failed",        # 502, an address that could not be fetched
    "draining",          # 503, with Retry-After, the service is about to end
    "timeout",           # 504
    "gone",              # 499, for the log: the client did not wait
    "not_saved",         # 507, a review that could not be written
)


class RequestError(Exception):
    """Answers a request with a status and {"error": {"kind", "message"}}.

    kind         one of KINDS, or of errors.IMAGE_ERROR_KINDS
    retry_after  seconds after which it may be asked again
    closes       the connection, for the rest of the body is not worth reading
    """

    def __init__(self, status: int, kind: str, message: str, retry_after: int | None = None,
                 closes: bool = False) -> None:
        if kind not in KINDS and kind not in IMAGE_ERROR_KINDS:
            raise ValueError(f"unknown kind of failure {kind!r}; known: {', '.join((*KINDS, *IMAGE_ERROR_KINDS))}")
        super().__init__(message)
        self.status, self.kind, self.retry_after, self.closes = status, kind, retry_after, closes

    @classmethod
    def of_image(cls, error: ImageError) -> RequestError:
        return cls(IMAGE_STATUS.get(error.kind, 422), error.kind, str(error))

    @classmethod
    def of_policy(cls, error: PolicyError) -> RequestError:
        return cls(400, "bad_policy", " ".join(str(error).split()))

    @property
    def headers(self) -> dict[str, str]:
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        retry = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return retry | ({"Connection": "close"} if self.closes else {})

    def as_json(self) -> dict:
        return {"error": {"kind": self.kind, "message": str(self)}}
