"""API keys: who may ask. `Authorization: Bearer KEY`, compared in a time that does not depend on the key."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping
from pathlib import Path

from safeguard_sdk.errors import ServeError

VARIABLE = "SAFEGUARD_API_KEYS"  # keys, blanks between them
LEAST_LENGTH = 16


class Keys:
    """Holds the hashes of the keys and not the keys. Raises ServeError for one that is too short to be a secret."""

    def __init__(self, keys: list[str], source: str) -> None:
        if not keys:
            raise ServeError(f"{source}: holds no API key; write one, such as what `openssl rand -hex 32` prints")
        for number, key in enumerate(keys, start=1):
            if len(key) < LEAST_LENGTH or not (key.isascii() and key.isprintable()) or " " in key:
                raise ServeError(f"{source}: key {number} must be at least {LEAST_LENGTH} letters, digits and signs, "
                                 "without blanks, such as what `openssl rand -hex 32` prints")
        self._digests = [_digest(key.encode()) for key in keys]

    @classmethod
    def read(cls, file: Path | None, environment: Mapping[str, str] = os.environ) -> Keys | None:
        """Of a file, one a line, where '#' starts a remark; else of the environment; None where there are none."""
        if file is not None:
            try:
                lines = file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise ServeError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8'}); name a "
                                 "text file of API keys, one a line") from error
            return cls([line.strip() for line in lines if line.strip() and not line.startswith("#")], str(file))
        if VARIABLE in environment:
            return cls(environment[VARIABLE].split(), f"environment variable {VARIABLE}")
        return None

    def admit(self, authorization: str | None) -> bool:
        """Whether the header of a request names one of the keys."""
        scheme, _, key = (authorization or "").partition(" ")
        digest = _digest(key.strip().encode("utf-8", "surrogateescape"))
        matches = [hmac.compare_digest(digest, known) for known in self._digests]  # all of them, whichever matches
        return any(matches) and scheme.lower() == "bearer"


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
