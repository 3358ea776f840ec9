"""What a service may take and how much of it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from safeguard_sdk.errors import ServeError

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Options:
    """Raises ServeError for a limit that lets nothing through."""

    batch_size: int = 8               # images that the engine judges at a time, at most
    batch_delay: float = 0.005        # seconds that an image waits for others which are being decoded
    queue: int = 128                  # requests that are in work; one more is answered 429
    timeout: float = 30.0             # seconds from a request's first byte to its verdict
    decoders: int = 0                 # threads that decode; 0 for as many as there are cores
    image_bytes: int = 20 * MIB       # of an image file
    held_bytes: int = 512 * MIB       # of all images that wait, as files
    pixels: int = 50_000_000          # of an image; decoding takes 7 to 16 bytes for each
    policy_bytes: int = 64 << 10      # of a policy in a request
    policy_rules: int = 32            # likewise: each is one more prefill for its image
    prefix_bytes: int = 1024 * MIB    # of the KV caches of rules that are kept
    inline_policies: bool = False     # whether a request may bring its own policy
    allow_urls: tuple[str, ...] = ()  # hosts that images are fetched from; none: no URL is ever fetched

    def __post_init__(self) -> None:
        for name in ("batch_size", "queue", "timeout", "image_bytes", "held_bytes", "pixels", "policy_bytes",
                     "policy_rules", "prefix_bytes"):
            if not getattr(self, name) > 0:
                raise ServeError(f"{name} is {getattr(self, name)}, must be above 0")
        for name in ("batch_delay", "decoders"):
            if not getattr(self, name) >= 0:
                raise ServeError(f"{name} is {getattr(self, name)}, must not be below 0")
        if self.held_bytes < 2 * self.image_bytes:  # in base64 an image has a third more
            raise ServeError(f"held_bytes is {self.held_bytes}, must be at least twice image_bytes, {self.image_bytes}")

    @property
    def decoding_threads(self) -> int:
        return self.decoders or os.cpu_count() or 1
