"""Every guard that is compared, by name. Each says in one line what it lacks: a package, weights, a key.

    nano                            the embedded bundle
    bundle:DIR                      any other bundle
    NAME, NAME:DIR, NAME@URL        by its name on a hub or in a package; from a folder; served at an address
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.quality.cases import System
from benchmarks.quality.systems.bundles import BundleSystem
from benchmarks.quality.systems.chat import CHAT_MODELS, ChatSystem
from benchmarks.quality.systems.clip_heads import open_laion_nsfw, open_multiheaded, open_sd_filter
from benchmarks.quality.systems.detectors import open_nudenet, open_open_nsfw
from benchmarks.quality.systems.moderation import ModerationSystem
from benchmarks.quality.systems.shieldgemma import ShieldGemma

SPEC = re.compile(r"(?P<name>[^:@]+)(?::(?P<folder>.+)|@(?P<url>https?://.+))?")


def _open_bundle(suite: str, folder: str | None) -> System:
    if folder is None:
        raise BenchmarkError("bundle: name its folder: bundle:DIR")
    return BundleSystem(Path(folder))


# (suite, folder or address or None) → System. Packages are imported when a system is opened, not before.
SYSTEMS: dict[str, Callable[[str, str | None], System]] = {
    "nano": lambda suite, source: BundleSystem(None),
    "bundle": _open_bundle,
    **{name: partial(ChatSystem, name) for name in CHAT_MODELS},
    "shieldgemma-2": lambda suite, source: ShieldGemma(source),
    "openai-moderation": ModerationSystem,
    "nudenet": lambda suite, source: open_nudenet(suite),
    "open-nsfw": lambda suite, source: open_open_nsfw(suite),
    "laion-nsfw": open_laion_nsfw,
    "multiheaded": open_multiheaded,
    "sd-filter": open_sd_filter,
}
SERVED = (*CHAT_MODELS, "openai-moderation")  # what may stand behind an address
NO_FOLDER = ("nano", "nudenet", "open-nsfw", "openai-moderation")


def name_of(spec: str) -> str:
    """Without the address, which may change while a run goes on."""
    return spec.partition("@")[0]


def open_system(spec: str, suite: str) -> System:
    """Raises BenchmarkError or TrainingError, in one line, for a name that is none and for whatever a system lacks."""
    found = SPEC.fullmatch(spec)
    name = found["name"] if found else spec
    if name not in SYSTEMS:
        raise BenchmarkError(f"no system {spec!r}; there are {', '.join(SYSTEMS)}; a folder is named like "
                             "qwen2.5-vl-7b:DIR, a server like qwen2.5-vl-7b@http://127.0.0.1:8000/v1")
    if found["url"] and name not in SERVED:
        raise BenchmarkError(f"{name}: is not asked at an address; leave {found['url']} out")
    if found["folder"] and name in NO_FOLDER:
        raise BenchmarkError(f"{name}: takes no folder; for a bundle say bundle:{found['folder']}")
    return SYSTEMS[name](suite, found["folder"] or found["url"])
