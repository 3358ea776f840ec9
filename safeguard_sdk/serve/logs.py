"""Logs: one JSON object a line, with hashes and kinds of failures, and nothing of an image: no byte of it, no name, no
hash, no message about it."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime

logger = logging.getLogger("safeguard.serve")


def log(event: str, level: int = logging.INFO, **fields: object) -> None:
    """Fields that are None are left out."""
    logger.log(level, event, extra={"fields": {key: value for key, value in fields.items() if value is not None}})


def where(error: BaseException) -> list[str]:
    """The places that an error came through, innermost last: "module.py:12 function"."""
    return [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__)]


def to_json_lines() -> None:
    """Has this service and its server write to stdout."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_JsonLine())
    for name, level in (("safeguard.serve", logging.INFO), ("uvicorn.error", logging.WARNING)):
        one = logging.getLogger(name)
        one.handlers[:], one.propagate = [handler], False
        one.setLevel(level)
    logging.getLogger("python_multipart").addHandler(logging.NullHandler())  # what it says, the answer says
    logging.raiseExceptions = False  # where stdout has been closed, stderr would have a traceback for each line


class _JsonLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "event": " ".join(record.getMessage().split()),
                **getattr(record, "fields", {})}
        if record.exc_info and record.exc_info[1]:
            line |= {"error": type(record.exc_info[1]).__name__, "where": where(record.exc_info[1])}
        return json.dumps(line)
