"""What stops a benchmark: one line that says what, where, why and how to mend it."""

from __future__ import annotations

from safeguard_sdk.errors import SafeguardError


class BenchmarkError(SafeguardError):
    """A measurement, a comparison or a table that cannot be made as it was asked for."""
