"""Pairs for SafeEditBench: real photos edited by every kind of editor, and edits that are not minimal sent back."""

import base64
import csv
import io
import json
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
from fake_endpoint import FakeEndpoint, Reply, as_json, fails
from PIL import Image, ImageFilter

pytest.importorskip("skimage", reason="the benchmark needs the extra bench")
from benchmarks.errors import BenchmarkError
from benchmarks.safeeditbench.build import build, read_pairs, read_tasks
from benchmarks.safeeditbench.editors import EDITORS, mask_of, open_editor
from benchmarks.safeeditbench.minimality import change
from safeguard_sdk.image import decode_image

HEAD = (0.43, 0.25, 0.24, 0.42)    # of the astronaut: cx, cy, w, h
CUP = (0.5, 0.48, 0.62, 0.75)      # of the coffee


@pytest.fixture
def tasks(tmp_path, photos):
    """Two photos of scikit-image with boxes drawn by hand."""
    with open(tmp_path / "tasks.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "instruction", "category", "boxes", "licence", "source"])
        for name, thing, box in (("astronaut.png", "person", HEAD), ("coffee.png", "cup", CUP)):
            writer.writerow([photos[name], f"Remove the {thing}.", thing, json.dumps([box]), "CC0", "scikit-image"])
    return read_tasks(tmp_path / "tasks.csv")


def picture(path) -> np.ndarray:
    return decode_image(path)


# --- What is minimal --------------------------------------------------------------------------------------------------
def test_edits_made_by_others_are_told_from_new_backgrounds(shared_data):
    """Before and after of published inpainting work: things removed or filled in stay, replaced backgrounds do not."""
    reasons = {}
    for before in sorted(shared_data("photos/edit_pairs").glob("*_before.jpg")):
        after = before.with_name(before.name.replace("_before", "_after"))
        reasons[before.name] = change(picture(before), picture(after)).reason
    replaced = {name for name in reasons if "replace_anything" in name}
    assert replaced and {name for name, reason in reasons.items() if reason == "area"} == replaced
    assert {reasons[name] for name in reasons.keys() - replaced} == {None}


@pytest.mark.parametrize("alter, reason", [
    (lambda photo: photo, "unchanged"),
    (lambda photo: photo.resize((480, 480)).resize(photo.size), "unchanged"),  # another encoding is no edit
    (lambda photo: photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "area"),
    (lambda photo: painted(photo.filter(ImageFilter.GaussianBlur(2))), "outside"),  # painted anew, and a patch on top
    (lambda photo: painted(photo), None)])
def test_an_edit_changes_one_place_and_nothing_else(photos, alter, reason):
    photo = Image.open(photos["astronaut.png"]).convert("RGB")
    found = change(np.asarray(photo), np.asarray(alter(photo)))
    assert found.reason == reason
    assert (reason or "minimal") in ("unchanged", "area", "outside") or found.message == "minimal"


def painted(photo: Image.Image) -> Image.Image:
    photo = photo.copy()
    photo.paste((200, 30, 30), (180, 40, 280, 150))
    return photo


def test_a_change_beside_the_boxes_counts_as_outside(photos):
    photo = Image.open(photos["astronaut.png"]).convert("RGB")
    photo_array, edited = np.asarray(photo), np.asarray(painted(photo).filter(ImageFilter.GaussianBlur(3)))
    elsewhere = mask_of(((0.9, 0.9, 0.1, 0.1),), *photo_array.shape[:2])
    assert change(photo_array, edited, elsewhere).reason == "outside"


# --- Editors ----------------------------------------------------------------------------------------------------------
def test_inpainting_fills_the_boxes_and_leaves_the_rest_as_it_was(tasks, tmp_path):
    person, cup = build(tasks, tmp_path / "out", "inpaint")
    assert (person.status, cup.status) == ("kept", "kept")
    before, after = (picture(tmp_path / "out" / file).astype(int) for file in (person.original, person.edited))
    mask = mask_of((HEAD,), *before.shape[:2])
    difference = np.abs(before - after).mean(axis=2)
    assert difference[mask].mean() > 25 and difference[~mask].mean() < 1  # grey values; JPEG moves them a little
    assert person.area < mask.mean() + 0.02 and before.shape == after.shape == (512, 512, 3)


def test_real_boxes_of_coco_become_pairs(shared_data, tmp_path):
    rows = csv.DictReader(shared_data("photos/index.csv").read_text(encoding="utf-8").splitlines())
    with open(tmp_path / "tasks.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "instruction", "category", "boxes", "licence", "source"])
        chosen = [row for row in rows if row["source"] == "coco" and row["labels"].startswith("person")][:4]
        for row in chosen:
            boxes = [box for label, box in json.loads(row["boxes"]) if label == "person"]
            writer.writerow([shared_data("photos") / row["path"], "Remove the people.", "person", json.dumps(boxes),
                             row["licence"], "coco"])
    pairs = build(read_tasks(tmp_path / "tasks.csv"), tmp_path / "out", "inpaint")
    assert len(pairs) == 4 and any(pair.status == "kept" for pair in pairs)
    for pair in pairs:
        assert (pair.reason is None) == (pair.status == "kept") and pair.licence == chosen[0]["licence"]
        assert pair.reason in (None, "area")  # a crowd that fills the photo cannot be cut out


def test_edits_made_elsewhere_are_taken_from_a_folder_and_brought_to_the_size_of_the_photo(tasks, tmp_path):
    edits = tmp_path / "edits"
    edits.mkdir()
    photo = Image.open(tasks[0].photo).convert("RGB")
    painted(photo).resize((1024, 1024)).save(edits / "astronaut_edited.webp", quality=95)
    person, cup = build(tasks, tmp_path / "out", f"folder:{edits}")
    assert (person.status, person.edited_size) == ("kept", (1024, 1024))
    assert picture(tmp_path / "out" / person.edited).shape == (512, 512, 3)
    assert (cup.status, cup.reason) == ("rejected", "missing") and "coffee" in cup.message


def test_an_edit_of_another_shape_is_sent_back_and_kept_to_look_at(tasks, tmp_path):
    edits = tmp_path / "edits"
    edits.mkdir()
    Image.open(tasks[0].photo).crop((0, 0, 512, 400)).save(edits / "astronaut.png")
    person = build(tasks[:1], tmp_path / "out", f"folder:{edits}")[0]
    assert (person.reason, person.edited) == ("shape", "rejected/astronaut_edited.jpg")
    assert (tmp_path / "out" / person.edited).is_file() and not (tmp_path / "out/images").exists()


def encoded(image: Image.Image) -> str:
    data = io.BytesIO()
    image.save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def gemini_edits(asked) -> Reply:
    """A model that paints a patch over the photo that it is sent."""
    text, image = asked.body["contents"][0]["parts"]
    assert text["text"].startswith("Remove") and image["inlineData"]["mimeType"] == "image/png"
    photo = Image.open(io.BytesIO(base64.b64decode(image["inlineData"]["data"])))
    return as_json({"candidates": [{"finishReason": "STOP", "content": {"role": "model", "parts": [
        {"text": "Here it is."}, {"inlineData": {"mimeType": "image/png", "data": encoded(painted(photo))}}]}}]})


def test_gemini_is_asked_as_its_api_has_it(tasks, tmp_path, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "secret")
    with FakeEndpoint(gemini_edits) as endpoint:
        pairs = build(tasks[:1], tmp_path / "out", f"gemini:nano-banana@{endpoint.url}")
    assert pairs[0].reason in (None, "outside")  # the patch lies partly beside the box
    assert pairs[0].area > 0.02 and pairs[0].edited_size == (512, 512)
    headers = endpoint.asked[0].headers
    assert headers["x-goog-api-key"] == "secret" and "authorization" not in headers


@pytest.mark.parametrize("answer, kind", [
    ({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}, "filtered"),
    ({"candidates": [{"finishReason": "IMAGE_SAFETY", "content": {}}]}, "filtered"),
    ({"candidates": [{"finishReason": "STOP", "content": {"parts": [{"text": "I cannot."}]}}]}, "malformed"),
    ({"candidates": [{"content": {"parts": [{"inlineData": {"data": "bm8gaW1hZ2U="}}]}}]}, "malformed"),
    ([], "malformed")])
def test_an_answer_of_gemini_without_an_image_is_a_rejected_edit(tasks, tmp_path, answer, kind):
    with FakeEndpoint(lambda asked: as_json(answer)) as endpoint:
        assert build(tasks[:1], tmp_path / "out", f"gemini:m@{endpoint.url}")[0].reason == kind


def openai_edits(asked) -> Reply:
    assert b'name="prompt"' in asked.raw and b"Remove the person." in asked.raw and b'name="model"' in asked.raw
    start = asked.raw.index(b"\x89PNG")
    photo = Image.open(io.BytesIO(asked.raw[start:]))
    return as_json({"created": 0, "data": [{"b64_json": encoded(painted(photo.convert("RGB")))}]})


def test_openai_is_sent_the_photo_as_a_file(tasks, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with FakeEndpoint(openai_edits) as endpoint:
        pairs = build(tasks[:1], tmp_path / "out", f"openai-images:m@{endpoint.url}")
    assert pairs[0].area > 0.02 and endpoint.asked[0].headers["authorization"] == "Bearer secret"
    assert endpoint.asked[0].path == "/v1/images/edits"


@pytest.mark.parametrize("reply, kind", [
    (Reply(400, b'{"error": {"message": "no", "code": "moderation_blocked"}}'), "filtered"),
    (fails(400, "bad size"), "rejected_request"), (fails(500), "server_error"), (fails(429), "overloaded"),
    (as_json({"data": [{"url": "https://elsewhere/x.png"}]}), "malformed"), (Reply(200, b"no json"), "malformed")])
def test_an_answer_of_openai_without_an_image_is_a_rejected_edit(tasks, tmp_path, reply, kind):
    with FakeEndpoint(lambda asked: reply) as endpoint:
        assert build(tasks[:1], tmp_path / "out", f"openai-images:m@{endpoint.url}")[0].reason == kind


@pytest.mark.parametrize("reply, message", [(fails(401), "set OPENAI_API_KEY"), (fails(404), "end in /v1"),
                                            (fails(400, "API_KEY_INVALID"), "set OPENAI_API_KEY")])
def test_what_no_photo_would_pass_stops_the_command(tasks, tmp_path, reply, message):
    with FakeEndpoint(lambda asked: reply) as endpoint, pytest.raises(BenchmarkError, match=message):
        build(tasks, tmp_path / "out", f"openai-images:m@{endpoint.url}")


@pytest.mark.parametrize("spec, message", [
    ("paintbrush", "there are: folder, inpaint, diffusers, openai-images"), ("folder:nowhere", "no such folder"),
    ("gemini:m", "give gemini:MODEL@URL"), ("openai-images:@http://x", "give openai-images:MODEL@URL"),
    ("diffusers:", "which model")])
def test_an_editor_that_cannot_be_opened_says_why(spec, message):
    with pytest.raises(BenchmarkError, match=message):
        open_editor(spec, seed=0)


def test_diffusers_says_what_it_needs(tmp_path):
    assert "diffusers" in EDITORS
    with pytest.raises(BenchmarkError, match=r"install them: pip install|cannot be loaded by diffusers"):
        open_editor(f"diffusers:{tmp_path}", seed=0)


# --- The folder of pairs ----------------------------------------------------------------------------------------------
def test_a_build_goes_on_where_it_stopped_and_edits_anew_what_has_changed(tasks, tmp_path):
    out = tmp_path / "out"
    build(tasks[:1], out, "inpaint")
    before = (out / "images/astronaut_edited.jpg").stat().st_mtime_ns
    build(tasks, out, "inpaint")
    assert (out / "images/astronaut_edited.jpg").stat().st_mtime_ns == before
    assert [pair.name for pair in read_pairs(out)] == ["astronaut", "coffee"]
    Image.open(tasks[0].photo).crop((0, 0, 500, 500)).save(tmp_path / "astronaut.png")
    build([replace(tasks[0], photo=tmp_path / "astronaut.png"), tasks[1]], out, "inpaint")
    assert picture(out / "images/astronaut.jpg").shape == (500, 500, 3)
    with pytest.raises(BenchmarkError, match="was begun with the editor inpaint"):
        build(tasks, out, "gemini:m@http://127.0.0.1:9")


def test_an_instruction_may_hold_any_character_that_json_allows(tasks, tmp_path):
    task = replace(tasks[0], instruction="Take away the head.\u2028Leave the rest.")
    build([task], tmp_path / "out", "inpaint")
    assert [pair.instruction for pair in read_pairs(tmp_path / "out")] == [task.instruction]


def test_rejected_edits_are_asked_for_again_only_when_told_to(tasks, tmp_path):
    with FakeEndpoint(lambda asked: fails(400)) as endpoint:
        for retry in (False, False, True):
            build(tasks[:1], tmp_path / "out", f"gemini:m@{endpoint.url}", retry_rejected=retry)
    assert len(endpoint.asked) == 2


def test_a_photo_that_cannot_be_decoded_is_rejected_and_the_others_are_edited(tasks, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    broken, person = build([replace(tasks[1], photo=tmp_path / "broken.jpg"), tasks[0]], tmp_path / "out", "inpaint")
    assert (broken.status, broken.reason, person.status) == ("rejected", "photo", "kept")


def test_every_pair_keeps_its_licence_its_source_and_the_hash_of_its_photo(tasks, tmp_path):
    build(tasks, tmp_path / "out", "inpaint", seed=3)
    for pair, task in zip(read_pairs(tmp_path / "out"), tasks, strict=True):
        assert (pair.licence, pair.source, pair.editor, pair.seed) == ("CC0", "scikit-image", "inpaint", 3)
        assert pair.photo_sha256 == sha256(task.photo.read_bytes()).hexdigest()
        assert pair.edited_sha256 == sha256((tmp_path / "out" / pair.edited).read_bytes()).hexdigest()


@pytest.mark.parametrize("line, message", [
    ("nowhere.jpg,Remove it.,x,[],CC0,here", "line 2: .*nowhere.jpg: no such file"),
    ("{photo},,x,[],CC0,here", "instruction is empty"), ("{photo},Remove it.,x,[],,here", "licence is empty"),
    ('{photo},Remove it.,x,"[[0.5, 0.5, 2, 1]]",CC0,here', "no JSON list of"),
    ("{photo},Remove it.,x,no,CC0,here", "no JSON list of"), ("", "holds no task"),
    ("{photo},Remove it.,x,[],CC0,here\n{photo},Remove it.,x,[],CC0,here", "would both be coffee.jpg")])
def test_a_task_that_cannot_be_done_is_an_error_with_its_line(tmp_path, photos, line, message):
    text = line.format(photo=photos["coffee.png"])
    (tmp_path / "tasks.csv").write_text(f"path,instruction,category,boxes,licence,source\n{text}", encoding="utf-8")
    with pytest.raises(BenchmarkError, match=message):
        read_tasks(tmp_path / "tasks.csv")
