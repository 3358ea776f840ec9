"""What an export refuses on purpose; each message says what, where, why and how to mend it."""

from __future__ import annotations

from safeguard_sdk.errors import SafeguardError


class ExportError(SafeguardError):
    """A checkpoint, a call or a target that cannot be exported."""


def first_line(error: Exception) -> str:
    """Of what an error says; its type where it says nothing. Those of transformers go on for pages."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
