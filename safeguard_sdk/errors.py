"""Everything safeguard raises on purpose; each message says what, where, why and how to mend it.

    SafeguardError
    ├── PolicyError    a policy that cannot be read or means nothing
    ├── ImageError     an image that cannot be judged; `.kind` says why, in one stable word
    ├── BundleError    a bundle that is incomplete, altered or of another format
    ├── EngineError    a runtime that cannot run the bundle as asked
    ├── VerdictError   an answer or a score that cannot be read as a verdict
    ├── ScanError      a scan that cannot begin or go on: its sources, its output folder, the disk
    └── ServeError     a service that cannot begin: its address, its keys, its limits, what it needs installed
"""

IMAGE_ERROR_KINDS = (
    "not_found",     # no such file, or a folder
    "unreadable",    # the file exists and cannot be read (permissions, I/O)
    "empty",         # zero bytes, or an image without pixels
    "not_an_image",  # no decoder knows these bytes
    "bad_header",    # a known format with a header that cannot be right
    "truncated",     # the pixels end too early
    "corrupt",       # the pixels cannot be decoded
    "too_large",     # more bytes, pixels or JPEG passes than the limit, refused before decoding; or no memory for it
    "bad_shape",     # an array that is not (h, w, 3) uint8, or a side ratio beyond the limit
    "unsupported",   # a format or mode without a decoder here
    "timeout",       # decoding took longer than allowed; for those who decode in a process that they can end
    "crashed",       # the decoder's process died of it, twice; likewise
    "no_verdict",    # decoded, but the model gave no number for it; only where others are judged after it
)


class SafeguardError(Exception):
    """Base of all errors that safeguard raises on purpose."""


class PolicyError(SafeguardError):
    """A policy that cannot be used."""


class ImageError(SafeguardError):
    """An image that cannot be judged; a failure is never a verdict.

    kind  one of IMAGE_ERROR_KINDS; stable, for programs
    """

    def __init__(self, message: str, kind: str) -> None:
        if kind not in IMAGE_ERROR_KINDS:
            raise ValueError(f"unknown kind of image error {kind!r}; known: {', '.join(IMAGE_ERROR_KINDS)}")
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple:  # a scan sends failures between processes
        return type(self), (str(self), self.kind)


class BundleError(SafeguardError):
    """A bundle that cannot be trusted or read."""


class EngineError(SafeguardError):
    """A runtime that cannot run the bundle as it was asked to."""


class VerdictError(SafeguardError):
    """An answer or a score that is no verdict; never read as safe."""


class ScanError(SafeguardError):
    """A scan that cannot begin or go on. What it has written stays; the same command goes on from there."""


class ServeError(SafeguardError):
    """A service that cannot begin as it was asked to."""
