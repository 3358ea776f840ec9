"""What stops a command of the benchmark: one line that says what, where, why and how to mend it."""

from __future__ import annotations

from safeguard_sdk.errors import SafeguardError


class BenchmarkError(SafeguardError):
    """A command of the benchmark that cannot go on as it was asked to."""
