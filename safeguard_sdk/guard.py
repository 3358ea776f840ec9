"""A policy on an engine: the one object that an application needs."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from safeguard_sdk.bundle import Bundle
from safeguard_sdk.engine import Engine, ImageEmbedding, Prefix, open_engine
from safeguard_sdk.errors import PolicyError
from safeguard_sdk.image import MAX_PIXELS, ModelInput, PatchGeometry, SquareGeometry, decode_image, to_model_input
from safeguard_sdk.policy import Policy, Rule
from safeguard_sdk.verdict import Verdict, calibrated_score, decide

ImageSource = str | Path | bytes | Image.Image | np.ndarray


class Guard:
    """Judges images by a policy; thread-safe.

    policy    rules in plain words; each rule's prompt is read once, here
    bundle    an opened bundle or the folder of one; the embedded nano by default
    provider  where its graphs run: "cpu", "cuda" or "tensorrt"
    threads   of the runtime; 0 for all cores
    engines   folder of TensorRT engines (python -m export tensorrt), which then run in place of ONNX Runtime
    raises    PolicyError if a rule is too long for the model, BundleError, EngineError
    """

    def __init__(self, policy: Policy, bundle: Bundle | str | Path | None = None, *,
                 provider: str = "cpu", threads: int = 0, engines: str | Path | None = None) -> None:
        if not isinstance(policy, Policy):
            raise PolicyError(f"the policy is of type {type(policy).__name__}; pass Policy.from_text(\"No guns.\") or "
                              "Policy.load(\"shop.yaml\")")
        if not isinstance(bundle, Bundle):
            bundle = Bundle.embedded() if bundle is None else Bundle.open(bundle)
        self._stand_on(open_engine(bundle, provider, threads, engines), policy)

    @classmethod
    def on(cls, engine: Engine, policy: Policy, read: Callable[[str], Prefix] | None = None) -> Guard:
        """A guard on an engine that is open already, such as another guard's, so that many policies share one.

        read    from the prompt of a rule to its prefix, for those who keep prefixes; `engine.read` by default
        raises  PolicyError if a rule is too long for the model
        """
        guard = cls.__new__(cls)
        guard._stand_on(engine, policy, read)
        return guard

    def check(self, image: ImageSource) -> Verdict:
        """Judge one image: a path, the bytes of a file, a PIL image, or an (h, w, 3) uint8 array.

        raises  ImageError when the image cannot be judged; a failure is never a verdict
        """
        return self._judge_one(image)[0]

    def explain(self, image: ImageSource, question: str | None = None,
                stream: Callable[[str], object] | None = None) -> Verdict:
        """Judge one image and say why, in `rationale`; the verdict is that of `check` and never read from this text.

        question  about the image, answered under the rule that decides, in place of why; not every bundle can
        stream    is called with each piece of the text as it comes
        raises    as `check` does; EngineError if the bundle writes no text
        """
        verdict, embedding = self._judge_one(image)
        prefix = self._prefixes[verdict.rule or max(verdict.rules, key=verdict.rules.get)]
        pieces = []
        for piece in self.engine.explain(prefix, embedding, question):
            pieces.append(piece)
            if stream is not None:
                stream(piece)
        return dataclasses.replace(verdict, rationale="".join(pieces))

    def check_many(self, images: Iterable[ImageSource], batch_size: int = 16) -> Iterator[Verdict]:
        """Verdicts in the order of `images`, each equal to what `check` gives alone. Reads ahead one batch at most.

        raises  ImageError at the place of an image that cannot be judged; the verdicts before it have been given
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, must be at least 1")
        source = iter(images)
        with ThreadPoolExecutor(max_workers=1) as ahead:
            waiting = ahead.submit(self._prepare, source, batch_size)
            while True:
                ready, error = waiting.result()
                if error is None and len(ready) == batch_size:
                    waiting = ahead.submit(self._prepare, source, batch_size)
                if ready:
                    yield from self.judge(self.engine.encode(ready))
                if error is not None:
                    raise error
                if len(ready) < batch_size:
                    return

    def judge(self, embeddings: list[ImageEmbedding]) -> list[Verdict]:
        """Verdicts of images that `engine.encode` has seen; nothing is decoded again when the policy changes."""
        logits = {rule.id: self.engine.score(self._prefixes[rule.id], embeddings) for rule in self.policy.rules}
        calibrations = {rule.id: self.bundle.calibration_of(rule.canonical_text) for rule in self.policy.rules}
        hashes = self.policy.sha256, self.bundle.sha256, self.bundle.style.sha256  # each computed when asked for
        verdicts = []
        for row in range(len(embeddings)):
            scores = {rule: calibrated_score(rows[row], calibrations[rule]) for rule, rows in logits.items()}
            label, score, rule = decide(scores, self.policy)
            verdicts.append(Verdict(label, score, rule, scores, *hashes))
        return verdicts

    def _stand_on(self, engine: Engine, policy: Policy, read: Callable[[str], Prefix] | None = None) -> None:
        self.engine, self.bundle, self.policy = engine, engine.bundle, policy
        self._prefixes = {rule.id: self._read(rule, read or engine.read) for rule in policy.rules}

    def _read(self, rule: Rule, read: Callable[[str], Prefix]) -> Prefix:
        try:
            return read(self.bundle.style.prefix(rule.canonical_text))
        except PolicyError as error:
            raise PolicyError(f"rule '{rule.id}': {error}") from error

    def _judge_one(self, image: ImageSource) -> tuple[Verdict, ImageEmbedding]:
        started = time.perf_counter()
        rgb = decode_image(image, target=self.bundle.geometry.size_of)
        decoded = time.perf_counter()
        model_input = to_model_input(rgb, self.bundle.geometry)
        patched = time.perf_counter()
        (embedding,) = self.engine.encode([model_input])
        encoded = time.perf_counter()
        (verdict,) = self.judge([embedding])
        marks = {"decode": decoded - started, "patches": patched - decoded, "vision": encoded - patched,
                 "prefill": time.perf_counter() - encoded}
        verdict.ms.update({stage: seconds * 1000 for stage, seconds in marks.items()})
        return verdict, embedding

    def _prepare(self, source: Iterator[ImageSource], count: int) -> tuple[list[ModelInput], Exception | None]:
        """Up to `count` images ready for the engine, and the error that ended it early. Any error of the source or of
        an image is handed on, so that the images before it are still judged."""
        ready: list[ModelInput] = []
        try:
            for image in itertools.islice(source, count):
                ready.append(prepare(image, self.bundle.geometry)[0])
        except Exception as error:
            return ready, error
        return ready, None

def prepare(image: ImageSource, geometry: SquareGeometry | PatchGeometry, name: str | None = None,
            max_pixels: int = MAX_PIXELS) -> tuple[ModelInput, np.ndarray]:
    """An image as a guard's engine takes it, and the (h, w, 3) uint8 that it was made from.

    What `check` does before the engine, for those who do it elsewhere, such as in another process: `engine.encode` of
    several, then `judge`. `name` is what messages call the image. Raises ImageError.
    """
    rgb = decode_image(image, max_pixels=max_pixels, target=geometry.size_of, name=name)
    return to_model_input(rgb, geometry), rgb
