"""What stops a command of training: one line that says what, where, why and how to mend it."""

from __future__ import annotations

from safeguard_sdk.errors import SafeguardError


class TrainingError(SafeguardError):
    """A command of training that cannot go on as it was asked to."""
