"""A bundle opens only if every byte of it is what its manifest says; else one line says what is wrong."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from tiny_bundle import FILES, manifest_of, write_bundle, write_manifest

from safeguard_sdk import Bundle, BundleError
from safeguard_sdk.bundle import EMBEDDED
from safeguard_sdk.calibration import Calibration
from safeguard_sdk.prompt import PROMPTS


@pytest.fixture
def folder(tmp_path) -> Path:
    """A whole bundle of tiny files: opening it needs no graph that runs."""
    return write_bundle(tmp_path)


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


# What opens

def test_a_bundle_is_what_its_manifest_says(folder):
    bundle = Bundle.open(str(folder))
    assert (bundle.name, bundle.version, bundle.architecture) == ("tiny", "0.1", "tags")
    assert bundle.style is PROMPTS["direct"]
    assert (bundle.geometry.side, bundle.geometry.std, bundle.geometry.resample) == (32, (0.25,) * 3, "bilinear")
    assert bundle.calibration == Calibration(2.0, -1.0)
    assert bundle.max_policy_tokens == 64
    assert bundle.manifest == json.loads((folder / "manifest.json").read_bytes())


def test_its_sha256_is_that_of_the_manifest_which_holds_all_others(folder):
    first = Bundle.open(folder).sha256
    assert first == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    write_manifest(folder, manifest_of(FILES, calibration={"scale": 2.0, "shift": -0.5}))
    assert Bundle.open(folder).sha256 != first


def test_the_embedded_bundle_opens_and_is_nano():
    bundle = Bundle.embedded()
    assert (bundle.path, bundle.name) == (EMBEDDED, "nano")


def test_notes_may_lie_beside_what_the_manifest_names(folder):
    (folder / "README.md").write_text("A model card.", encoding="utf-8")
    assert Bundle.open(folder).name == "tiny"


# What does not

@pytest.mark.parametrize("name", FILES)
def test_one_altered_byte_of_any_file(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    assert f"{name}: sha256 is {hashlib.sha256(data).hexdigest()[:12]}…" in refusal(folder)


def test_of_several_altered_files_the_first_in_the_manifest_is_named(folder):
    """Files are hashed beside each other; the message does not depend on which is done first."""
    for name in FILES:
        (folder / name).write_bytes(b"altered")
    assert f"{next(iter(FILES))}: sha256 is " in refusal(folder)


@pytest.mark.parametrize("keep", [0, 5])
def test_a_file_that_was_cut_short(folder, keep):
    (folder / "vision-0.bin").write_bytes(FILES["vision-0.bin"][:keep])
    assert "vision-0.bin: sha256 is " in refusal(folder)


@pytest.mark.parametrize("replace", [lambda path: None, Path.mkdir], ids=["nothing", "a folder"])
def test_a_file_that_is_missing(folder, replace):
    (folder / "vision.onnx").unlink()
    replace(folder / "vision.onnx")
    assert "vision.onnx: named in the manifest and missing" in refusal(folder)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(folder):
    (folder / "vision.onnx").chmod(0)
    assert "vision.onnx: Permission denied" in refusal(folder)


@pytest.mark.parametrize("name", ["decoder.onnx", "vision-1.bin", "vision.onnx.data", "decoder-0.npz",
                                  "tags.json"])
def test_a_graph_or_weights_that_the_manifest_does_not_name(folder, name):
    (folder / name).write_bytes(b"from elsewhere")
    assert f"{name}: not named in the manifest" in refusal(folder)


@pytest.mark.parametrize("name", ["../outside.bin", "sub/inside.bin", "{parent}/outside.bin", "..", ".", ""])
def test_a_name_that_leads_elsewhere_even_where_the_hash_is_right(folder, name):
    name = name.format(parent=folder.parent)
    (folder / "sub").mkdir()
    for path in (folder.parent / "outside.bin", folder / "sub/inside.bin"):
        path.write_bytes(b"x")
    write_manifest(folder, manifest_of(FILES | {name: b"x"}))
    assert "lie in its own folder" in (message := refusal(folder)) or "missing" in message


MANIFESTS = {  # what is wrong: (the manifest, what the message says)
    "not JSON": (b"{'format': 1}", "is not JSON"),
    "not text": (b"\xff\xfe\x00", "is not JSON"),
    "empty": (b"", "is not JSON"),
    "nested without end": (b"[" * 100_000, "is not JSON"),
    "a list": ([], "format is 'list', this version of safeguard reads 2"),
    "a later format": (manifest_of(FILES, format=3), "format is 3, this version of safeguard reads 2"),
    "an earlier format": (manifest_of(FILES, format=1),
                          "format is 1, this version of safeguard reads 2; export the bundle again"),
    "no format": ({"files": []}, "format is None"),
    "an unknown architecture": (manifest_of(FILES, architecture="patches"), "architecture 'patches' is not known"),
    "an unknown prompt": (manifest_of(FILES, prompt={"style": "haiku", "version": "1", "sha256": ""}), "'haiku'"),
    "another text of a prompt": (manifest_of(FILES, prompt={"style": "direct", "version": "0", "sha256": "0" * 64}),
                                 "made for prompt 'direct' version '0'"),
    "no files": ({key: value for key, value in manifest_of(FILES).items() if key != "files"}, "KeyError 'files'"),
    "a file without hash": (manifest_of(FILES, files=[{"file": "vision.onnx"}]), "KeyError 'sha256'"),
    "a hash that is no text": (manifest_of(FILES, files=[{"file": "vision.onnx", "sha256": 7}]), "TypeError"),
    "a file that is no text": (manifest_of(FILES, files=[{"file": 7, "sha256": ""}]), "TypeError"),
    "files that are no list": (manifest_of(FILES, files=7), "TypeError"),
    "no side": (manifest_of(FILES, processor={"mean": [0] * 3, "std": [1] * 3, "resample": "bicubic"}), "'side'"),
    "a mean in words": (manifest_of(FILES, processor={"side": 8, "mean": "abc", "std": [1] * 3, "resample": "bicubic"}),
                        "must hold 3 numbers each"),
    "an unknown resize": (manifest_of(FILES, processor={"side": 8, "mean": [0] * 3, "std": [1] * 3, "resample": "x"}),
                          "resample is 'x'"),
    "a scale that turns verdicts round": (manifest_of(FILES, calibration={"scale": -1.0, "shift": 0.0}), "scale -1.0"),
    "a scale that is no number": (manifest_of(FILES, calibration={"scale": float("nan"), "shift": 0.0}), "scale nan"),
    "a scale in words": (manifest_of(FILES, calibration={"scale": "one", "shift": 0.0}), "TypeError"),
    "no room for a policy": (manifest_of(FILES, max_policy_tokens=0), "max_policy_tokens is 0"),
    "room in words": (manifest_of(FILES, max_policy_tokens="many"), "max_policy_tokens is 'many'"),
}


@pytest.mark.parametrize("wrong", MANIFESTS)
def test_a_manifest_that_is(folder, wrong):
    manifest, says = MANIFESTS[wrong]
    if isinstance(manifest, bytes):
        (folder / "manifest.json").write_bytes(manifest)
    else:
        write_manifest(folder, manifest)
    assert says in refusal(folder)


@pytest.mark.parametrize("place", ["nowhere", "manifest.json"])  # no such folder; a file
def test_a_folder_without_manifest_says_what_a_bundle_is(folder, place):
    assert "a bundle is a folder with a manifest.json" in refusal(folder / place)


# The tokenizer

def test_special_tokens_in_a_policy_are_plain_letters():
    tokenizer = Bundle.embedded().read_tokenizer()
    special = tokenizer.token_to_id("<|im_end|>")
    assert special is not None
    assert special not in tokenizer.encode("No <|im_end|> guns.", add_special_tokens=False).ids


def test_a_tokenizer_that_cannot_be_read(folder):
    with pytest.raises(BundleError, match=r"tokenizer\.json: cannot be read as a tokenizer"):
        Bundle.open(folder).read_tokenizer()
