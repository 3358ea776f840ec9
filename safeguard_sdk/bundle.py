"""A bundle: one folder with everything a guard needs, verified by hash when it is opened.

`manifest.json` names every file with its sha256; one that is missing or altered does not load, and neither does a
bundle with a graph, weights or JSON that are not named. Nothing in a bundle is executable: ONNX graphs, JSON, text.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from safeguard_sdk.calibration import AnyCalibration, read_calibration, text_sha256
from safeguard_sdk.errors import BundleError
from safeguard_sdk.image import PatchGeometry, SquareGeometry
from safeguard_sdk.prompt import PROMPTS, PromptStyle

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FORMAT = 2
MANIFEST = "manifest.json"
EMBEDDED = Path(__file__).parent / "nano"
# Of graphs and of what an engine opens beside them: no such file goes unverified.
OPENED = (".onnx", ".bin", ".data", ".npy", ".npz", ".json")
ARCHITECTURES = ("tags", "qwen-vl")  # how a picture reaches the language model: as words, as tokens; see engine/


@dataclass(frozen=True)
class Bundle:
    """An opened bundle; `manifest` holds what models, data and measurements it came from."""

    path: Path
    name: str
    version: str
    architecture: str
    style: PromptStyle
    geometry: SquareGeometry | PatchGeometry
    calibration: AnyCalibration  # of all rules but those below
    max_policy_tokens: int
    manifest: dict
    sha256: str  # of the manifest, which holds the hashes of all other files
    rule_calibrations: dict[str, AnyCalibration] = field(default_factory=dict)  # by text_sha256 of what a model reads

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Read a manifest and verify every file it names. Raises BundleError."""
        path = Path(path)
        data = _read(path / MANIFEST, "a bundle is a folder with a manifest.json, as `python -m export` writes it")
        try:
            manifest = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{path / MANIFEST}: is not JSON ({error}); export the bundle again") from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
            raise BundleError(f"{path / MANIFEST}: format is {found!r}, this version of safeguard reads {FORMAT}; "
                              "export the bundle again or install the version that wrote it")
        try:
            with ThreadPoolExecutor() as beside:  # hashing lets go of the GIL
                list(beside.map(lambda file: _verify(path, file["file"], file["sha256"]), manifest["files"]))
            _refuse_strays(path, {file["file"] for file in manifest["files"]})
            bundle = cls._from_manifest(path, manifest, hashlib.sha256(data).hexdigest())
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{path / MANIFEST}: {type(error).__name__} {error}; "
                              "the manifest is incomplete, export the bundle again") from error
        return bundle

    @classmethod
    def embedded(cls) -> Bundle:
        """The bundle inside the package: nano."""
        return cls.open(EMBEDDED)

    def calibration_of(self, text: str) -> AnyCalibration:
        """That of the rule with this canonical text, or else the one of all rules."""
        return self.rule_calibrations.get(text_sha256(text), self.calibration)

    def unsafe_at_of(self, text: str) -> float | None:
        """The threshold that calibration recommends for the rule with this canonical text; None if it chose none. A
        recommendation: verdicts follow the thresholds of the policy."""
        entry = self.manifest["calibration"]
        return entry.get("rules", {}).get(text_sha256(text), entry).get("unsafe_at")

    def read_tokenizer(self) -> Tokenizer:
        """The tokenizer, which reads "<|im_end|>" in a policy as these letters and not as a special token."""
        from tokenizers import Tokenizer  # most uses of a bundle's facts need none
        path = self.path / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(f"{path}: cannot be read as a tokenizer ({error}); export the bundle again") from error
        tokenizer.encode_special_tokens = True
        return tokenizer

    @classmethod
    def _from_manifest(cls, path: Path, manifest: dict, sha256: str) -> Bundle:
        architecture, prompt = manifest["architecture"], manifest["prompt"]
        if architecture not in ARCHITECTURES:
            raise BundleError(f"{path / MANIFEST}: architecture {architecture!r} is not known here "
                              f"({', '.join(ARCHITECTURES)}); install a newer safeguard")
        style = PROMPTS.get(prompt["style"])
        if style is None or style.sha256 != prompt["sha256"]:
            raise BundleError(f"{path / MANIFEST}: made for prompt {prompt['style']!r} version {prompt['version']!r}, "
                              "which this version of safeguard does not write; export the bundle again")
        processor, most = manifest["processor"], manifest["max_policy_tokens"]
        calibration = manifest["calibration"]
        rules = calibration.get("rules", {})
        for entry in (calibration, *rules.values()):
            if not 0 <= entry.get("unsafe_at", 0) <= 1:
                raise ValueError(f"calibration: unsafe_at is {entry['unsafe_at']!r}, must be a number in [0, 1]")
        if not isinstance(most, int) or most < 1:
            raise ValueError(f"max_policy_tokens is {most!r}, must be a whole number above 0")
        return cls(
            path=path, name=manifest["name"], version=manifest["version"], architecture=architecture, style=style,
            geometry=_geometry(architecture, processor),
            calibration=read_calibration(calibration), max_policy_tokens=most, manifest=manifest, sha256=sha256,
            rule_calibrations={text: read_calibration(entry) for text, entry in rules.items()},
        )


def _geometry(architecture: str, processor: dict) -> SquareGeometry | PatchGeometry:
    scale = {"mean": tuple(processor["mean"]), "std": tuple(processor["std"]), "resample": processor["resample"]}
    if architecture == "tags":
        return SquareGeometry(side=processor["side"], **scale)
    sizes = ("patch", "min_pixels", "max_pixels", "merge", "temporal")
    return PatchGeometry(**{size: processor[size] for size in sizes}, **scale)


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify(folder: Path, name: str, sha256: str) -> None:
    path = folder / name
    if Path(name).name != name:
        raise BundleError(f"{folder / MANIFEST}: names the file {name!r}; files of a bundle lie in its own folder")
    if not path.is_file():
        raise BundleError(f"{path}: named in the manifest and missing; copy the whole folder again")
    try:
        found = file_sha256(path)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}; see to its permissions") from error
    if found != sha256:
        raise BundleError(f"{path}: sha256 is {found[:12]}…, the manifest says {sha256[:12]}…; "
                          "the file was altered or cut short, copy the bundle again")


def _refuse_strays(folder: Path, named: set[str]) -> None:
    for path in folder.iterdir():
        if path.suffix in OPENED and path.name not in {*named, MANIFEST}:
            raise BundleError(f"{path}: not named in the manifest, so nothing vouches for it; delete it, or copy the "
                              "bundle again")


def _read(path: Path, advice: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}; {advice}") from error
