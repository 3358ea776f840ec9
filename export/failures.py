"""What an export refuses on purpose; each message says what, where, why and how to mend it."""


class ExportError(Exception):
    """A checkpoint, a call or a target that cannot be exported."""
