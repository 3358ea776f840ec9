"""From photos to recaptions: every photo has a row, whatever became of it, and a stop changes nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fake_endpoint import Asked, FakeEndpoint, Reply, fails, says
from PIL import Image
from typer.testing import CliRunner

from safeguard_sdk.errors import IMAGE_ERROR_KINDS
from training.__main__ import app
from training.errors import TrainingError
from training.recaption.models import MODEL_ERROR_KINDS
from training.recaption.pipeline import RECAPTIONS, SIGHT, STATUSES, recaption
from training.recaption.prompts import CAPTION_PROMPT, rewrite_prompt
from training.recaption.sources import read_items

ROOT = Path(__file__).parents[1]
WIDTHS = range(40, 54, 2)  # each photo has its own, and the endpoint tells them by it
CAPTION = "A man {width} years old holds an object in front of a red car."
REWRITE = "A man {width} years old holds a gun in front of a red car."


@pytest.fixture
def folder(tmp_path, small) -> Path:
    """Seven sizes of one photo."""
    (tmp_path / "photos").mkdir()
    for width in WIDTHS:
        small.resize((width, 30)).save(tmp_path / "photos" / f"{width}.png")
    return tmp_path / "photos"


def obliging(asked: Asked) -> Reply:
    """Both models as one wishes them."""
    width = asked.image.width
    if asked.prompt == CAPTION_PROMPT:
        return says(CAPTION.format(width=width))
    assert asked.prompt == rewrite_prompt(CAPTION.format(width=width))
    return says(REWRITE.format(width=width))


def run(photos: Path, endpoint: FakeEndpoint, out: Path, captioner: str | None = "qwen", **how) -> dict[str, int]:
    return recaption(photos, captioner and f"{captioner}@{endpoint.url}", f"gemma@{endpoint.url}", out,
                     **({"concurrency": 3, "part_rows": 2} | how))


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def rows_of(out: Path) -> list[dict]:
    return [row for part in sorted((out / "recaptions").glob("*.parquet")) for row in pq.read_table(part).to_pylist()]


# Rows

def test_every_photo_has_a_caption_and_its_rewrite(folder, tmp_path):
    with FakeEndpoint(obliging) as endpoint:
        counts = run(folder, endpoint, tmp_path / "out")
    assert counts == {"restored": 7, "unchanged": 0, "rejected": 0, "failed": 0}
    rows = rows_of(tmp_path / "out")
    assert [row["path"] for row in rows] == [f"{width}.png" for width in WIDTHS]
    for width, row in zip(WIDTHS, rows, strict=True):
        assert row["caption"] == CAPTION.format(width=width)
        assert row["recaption"] == row["rewrite"] == REWRITE.format(width=width)
        assert (row["status"], row["failed_at"], row["kind"], row["lost"], row["added"]) == (
            "restored", None, None, [], ["gun"])


def test_the_table_is_in_parts_of_the_documented_schema(folder, tmp_path):
    with FakeEndpoint(obliging) as endpoint:
        run(folder, endpoint, tmp_path / "out")
    parts = sorted((tmp_path / "out/recaptions").iterdir())
    assert [part.name for part in parts] == [*(f"part-0000{number}.parquet" for number in range(4)), "run.json"]
    assert [pq.read_metadata(part).num_rows for part in parts[:4]] == [2, 2, 2, 1]
    assert pq.read_schema(parts[0]).equals(RECAPTIONS)
    page = (ROOT / "docs/recaption.md").read_text(encoding="utf-8")
    assert [name for name in RECAPTIONS.names if f"`{name}`" not in page] == []
    assert [status for status in STATUSES if f"`{status}`" not in page] == []
    assert [kind for kind in MODEL_ERROR_KINDS if f"`{kind}`" not in page] == []


def test_whatever_goes_wrong_with_one_photo_is_its_row_and_the_others_go_on(folder, tmp_path):
    answers = {  # width: (captioner, rewriter)
        40: (says("A man holds an object."), says("A man holds an object.")),
        42: (says("A man holds an object."), says("A man holds.")),
        44: (fails(500, "out of memory"), None),
        46: (says("A man holds an object."), says("", "content_filter")),
        48: (says("A man holds an obj", "length"), None),
        50: (says("A man holds an object."), fails(400, "too large")),
    }
    (folder / "52.png").write_bytes(b"no photo")

    def answer(asked: Asked) -> Reply:
        return answers[asked.image.width][asked.prompt != CAPTION_PROMPT]

    with FakeEndpoint(answer) as endpoint:
        counts = run(folder, endpoint, tmp_path / "out")
    rows = {int(row["path"][:2]): row for row in rows_of(tmp_path / "out")}
    assert {width: (row["status"], row["failed_at"], row["kind"]) for width, row in rows.items()} == {
        40: ("unchanged", None, None), 42: ("rejected", None, "lost_nouns"),
        44: ("failed", "captioner", "server_error"), 46: ("failed", "rewriter", "filtered"),
        48: ("failed", "captioner", "truncated"), 50: ("failed", "rewriter", "rejected_request"),
        52: ("failed", "image", "not_an_image")}
    assert {row["kind"] for row in rows.values()} <= {None, "lost_nouns", *MODEL_ERROR_KINDS, *IMAGE_ERROR_KINDS}
    assert all((row["recaption"] is None) == (row["status"] in ("rejected", "failed")) for row in rows.values())
    assert rows[42]["rewrite"] == "A man holds." and rows[42]["lost"] == ["object"]
    assert all(row["message"] and "\n" not in row["message"] for row in rows.values() if row["kind"])
    assert counts == {"restored": 0, "unchanged": 1, "rejected": 1, "failed": 5, "failed/filtered": 1,
                      "failed/not_an_image": 1, "failed/rejected_request": 1, "failed/server_error": 1,
                      "failed/truncated": 1, "rejected/lost_nouns": 1}


def test_large_photos_are_shrunk_with_their_shape_and_turned_upright(tmp_path, small):
    (tmp_path / "photos").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    small.resize((2400, 1200)).save(tmp_path / "photos/large.jpg", exif=exif)
    with FakeEndpoint(lambda asked: says("A temple.")) as endpoint:
        run(tmp_path / "photos", endpoint, tmp_path / "out")
    width, height = endpoint.asked[0].image.size
    assert height / width == pytest.approx(2, rel=0.01)
    assert 0.98 < width * height / SIGHT.max_pixels <= 1


# Sources

def test_an_index_says_which_photos_and_in_which_order(folder, tmp_path):
    (folder / "index.csv").write_text("path,labels\n46.png,gun\n40.png,\n", encoding="utf-8")
    with FakeEndpoint(obliging) as endpoint:
        run(folder, endpoint, tmp_path / "out")
    assert [row["path"] for row in rows_of(tmp_path / "out")] == ["46.png", "40.png"]


def test_given_captions_are_rewritten_without_a_captioner(folder, tmp_path):
    lines = [{"image": f"{width}.png", "answer": CAPTION.format(width=width), "id": 1} for width in (44, 40)]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    with FakeEndpoint(obliging) as endpoint:
        run(folder / "captions.jsonl", endpoint, tmp_path / "out", captioner=None)
    assert [row["recaption"] for row in rows_of(tmp_path / "out")] == [REWRITE.format(width=44),
                                                                       REWRITE.format(width=40)]
    assert len(endpoint.asked) == 2


SOURCES = {
    "an empty folder": ({}, None, "holds no photos"),
    "an index without paths": ({"index.csv": "file\n40.png\n"}, None, "has no column path"),
    "an index that names a photo twice": ({"index.csv": "path\na.png\na.png\n"}, None, "lists 'a.png' twice"),
    "an index with a row that is too short": ({"index.csv": "path,labels\na.png\n"}, None, "line 2: has 1 cells,"),
    "an index with a row without a name": ({"index.csv": "path,labels\n,gun\n"}, None, "line 2: path is empty"),
    "a name with a control character": ({"index.csv": "path\na\x07.png\n"}, None, "has control characters"),
    "a caption with half a character": ({"c.jsonl": '{"image": "a.png", "answer": "A \\ud83d"}'}, "c.jsonl",
                                        "line 1: .*surrogates not allowed"),
    "an index that is no text": ({"index.csv": b"\xff\xfe"}, None, "cannot be read as CSV"),
    "a line that is no JSON": ({"c.jsonl": "{"}, "c.jsonl", "line 1: is no JSON object"),
    "a line without a caption": ({"c.jsonl": '{"image": "a.png"}'}, "c.jsonl", "KeyError: 'answer'"),
    "a caption that is empty": ({"c.jsonl": '{"image": "a.png", "answer": " "}'}, "c.jsonl", "answer is empty"),
    "a caption without a photo": ({"c.jsonl": '{"image": "", "answer": "A man."}'}, "c.jsonl", "image is no text, or"),
    "a caption that is no text": ({"c.jsonl": '{"image": "a.png", "answer": 7}'}, "c.jsonl", "line 1"),
}


@pytest.mark.parametrize("wrong", SOURCES)
def test_a_source_that_cannot_be_used_is_one_clear_line(tmp_path, wrong):
    files, name, says_so = SOURCES[wrong]
    for file, text in files.items():
        (tmp_path / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(TrainingError, match=says_so) as caught:
        recaption(tmp_path / name if name else tmp_path, None if name else "a@http://127.0.0.1:1/v1",
                  "b@http://127.0.0.1:1/v1", tmp_path / "out")
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("given, captioner, says_so", [(True, "qwen", "leave --captioner out"),
                                                       (False, None, "name a model with --captioner")])
def test_captions_are_given_or_made_and_never_both(folder, tmp_path, given, captioner, says_so):
    (folder / "captions.jsonl").write_text('{"image": "40.png", "answer": "A man."}', encoding="utf-8")
    with FakeEndpoint(obliging) as endpoint, pytest.raises(TrainingError, match=says_so):
        run(folder / "captions.jsonl" if given else folder, endpoint, tmp_path / "out", captioner=captioner)


@pytest.mark.parametrize("name", ["a.jfif", "a.JPE", "a.heif", "Screenshot at 9.41.00\u202fAM.png", "ä 猫.jpg"])
def test_a_folder_has_every_image_file_that_the_guard_takes(tmp_path, name):
    (tmp_path / name).touch()
    (tmp_path / "notes.txt").touch()
    assert [item.path for item in read_items(tmp_path)] == [name]


def test_a_name_that_is_no_utf8_is_one_clear_line(tmp_path):
    (tmp_path / "a\udcff.png").touch()
    with pytest.raises(TrainingError, match=r"the name 'a\\udcff\.png' has control characters or is no UTF-8"):
        read_items(tmp_path)


def test_files_that_excel_saves_begin_with_a_byte_order_mark_and_are_read(tmp_path):
    (tmp_path / "index.csv").write_text("path\na.png\n", encoding="utf-8-sig")
    (tmp_path / "c.jsonl").write_text('{"image": "a.png", "answer": "A man."}\n', encoding="utf-8-sig")
    for source in (tmp_path, tmp_path / "c.jsonl"):
        assert [item.path for item in read_items(source)] == ["a.png"]


def test_an_out_below_a_file_is_one_clear_line(folder, tmp_path):
    (tmp_path / "file").touch()
    with FakeEndpoint(obliging) as endpoint, pytest.raises(TrainingError, match="file/out/captions: cannot be made"):
        run(folder, endpoint, tmp_path / "file/out")


@pytest.mark.parametrize("given", [True, False])
def test_a_caption_with_a_word_without_end_is_a_failed_row(folder, tmp_path, given):
    endless = "A man holds an " + "object" * 400
    (folder / "captions.jsonl").write_text(json.dumps({"image": "40.png", "answer": endless}), encoding="utf-8")
    with FakeEndpoint(lambda asked: says(endless)) as endpoint:
        run(folder / "captions.jsonl" if given else folder, endpoint, tmp_path / "out",
            captioner=None if given else "qwen")
    assert {(row["status"], row["failed_at"], row["kind"], row["message"]) for row in rows_of(tmp_path / "out")} == {
        ("failed", "captioner", "malformed", "the caption has a word of 2400 letters, 60 may it have")}


# Going on

GO_ON = """
import sys
from pathlib import Path
from training.recaption.pipeline import recaption
photos, url, out = sys.argv[1:]
recaption(Path(photos), f"qwen@{url}", f"gemma@{url}", Path(out), concurrency=2, part_rows=2)
"""


@pytest.mark.parametrize("answered, parts", [(3, 1), (10, 5)])  # of 14: while captions, while rewrites are written
def test_a_killed_run_goes_on_and_ends_with_the_same_rows(folder, tmp_path, answered, parts):
    stuck, reached, count = threading.Event(), threading.Event(), iter(range(1000))

    def sticking(asked: Asked) -> Reply:
        if next(count) >= answered:
            reached.set()
            stuck.wait(60)
        return obliging(asked)

    with FakeEndpoint(sticking) as endpoint:
        command = [sys.executable, "-c", GO_ON, str(folder), endpoint.url, str(tmp_path / "killed")]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
            assert reached.wait(60)
            wait_for(lambda: len(list(tmp_path.glob("killed/*/part-*.parquet"))) == parts)
            process.send_signal(signal.SIGKILL)
        stuck.set()
        written = {path: path.read_bytes() for path in tmp_path.glob("killed/*/part-*.parquet")}
        endpoint.answer, before = obliging, len(endpoint.asked)
        run(folder, endpoint, tmp_path / "killed")
        again = len(endpoint.asked) - before
    with FakeEndpoint(obliging) as endpoint:
        run(folder, endpoint, tmp_path / "whole")
    assert {path: path.read_bytes() for path in written} == written
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")
    assert again == 14 - sum(pq.read_metadata(path).num_rows for path in written)  # what is written is not asked again


def test_a_finished_run_asks_nothing_and_needs_no_endpoint(folder, tmp_path):
    with FakeEndpoint(obliging) as endpoint:
        counts = run(folder, endpoint, tmp_path / "out")
    assert run(folder, endpoint, tmp_path / "out") == counts  # the endpoint is gone by now


def test_rows_that_failed_stay_until_they_are_asked_for_again(folder, tmp_path):
    def half_broken(asked: Asked) -> Reply:
        return fails(400) if asked.image.width in (42, 48) else obliging(asked)

    with FakeEndpoint(half_broken) as endpoint:
        assert run(folder, endpoint, tmp_path / "out")["failed"] == 2
        endpoint.answer = obliging
        assert run(folder, endpoint, tmp_path / "out")["failed"] == 2
        before = len(endpoint.asked)
        assert run(folder, endpoint, tmp_path / "out", retry_failed=True)["restored"] == 7
    assert Counter(asked.image.width for asked in endpoint.asked[before:]) == {42: 2, 48: 2}
    with FakeEndpoint(obliging) as endpoint:
        run(folder, endpoint, tmp_path / "whole")
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "whole")


def test_an_endpoint_that_goes_away_loses_no_part(folder, tmp_path):
    count = iter(range(1000))
    with FakeEndpoint(lambda asked: obliging(asked) if next(count) < 5 else fails(401)) as endpoint:
        with pytest.raises(TrainingError, match="OPENAI_API_KEY"):
            run(folder, endpoint, tmp_path / "out", concurrency=1)
        assert len(list((tmp_path / "out/captions").glob("part-*"))) == 2
        endpoint.answer = obliging
        assert run(folder, endpoint, tmp_path / "out")["restored"] == 7


def test_the_draw_of_a_photo_is_its_own(folder, tmp_path):
    with FakeEndpoint(obliging) as endpoint:
        run(folder, endpoint, tmp_path / "one", seed=1)
        run(folder, endpoint, tmp_path / "two", seed=2)
    seeds = [asked.body["seed"] for asked in endpoint.asked]
    assert len(set(seeds)) == 14  # photos and runs differ, the two questions about a photo do not
    assert {asked.body["temperature"] for asked in endpoint.asked} == {0.0, 0.7}


@pytest.mark.parametrize("change, says_so", [
    ({"captioner": "llava"}, "another captioner .'qwen', now 'llava'"), ({"seed": 5}, "another seed"),
    ({"part_rows": 3}, "another part_rows")])
def test_another_run_does_not_go_on_in_the_folder_of_the_first(folder, tmp_path, change, says_so):
    with FakeEndpoint(obliging) as endpoint:
        run(folder, endpoint, tmp_path / "out")
        with pytest.raises(TrainingError, match=says_so):
            run(folder, endpoint, tmp_path / "out", **change)
        (folder / "new.png").write_bytes((folder / "40.png").read_bytes())
        with pytest.raises(TrainingError, match="another photos"):
            run(folder, endpoint, tmp_path / "out")


def test_a_part_that_cannot_be_read_is_an_error_that_says_how_to_mend_it(folder, tmp_path):
    with FakeEndpoint(obliging) as endpoint:
        run(folder, endpoint, tmp_path / "out")
        part = tmp_path / "out/recaptions/part-00001.parquet"
        part.write_bytes(part.read_bytes()[:100])
        with pytest.raises(TrainingError, match=r"part-00001\.parquet: cannot be read .* delete it and run"):
            run(folder, endpoint, tmp_path / "out")
        part.unlink()
        assert run(folder, endpoint, tmp_path / "out")["restored"] == 7


# The command

@pytest.mark.parametrize("broken, status", [(False, 0), (True, 1)])
def test_the_command_prints_counts_and_says_by_its_status_whether_rows_failed(folder, tmp_path, broken, status):
    with FakeEndpoint(lambda asked: fails(400) if broken else obliging(asked)) as endpoint:
        result = CliRunner().invoke(app, ["recaption", str(folder), "--captioner", f"q@{endpoint.url}", "--rewriter",
                                          f"g@{endpoint.url}", "--out", str(tmp_path / "out")])
    assert result.exit_code == status, result.output
    assert json.loads(result.stdout)["failed"] == 7 * broken
    assert "captioner: part 1 of 1 written" in result.stderr


def test_the_command_says_in_one_line_why_it_cannot_go_on(tmp_path):
    result = CliRunner().invoke(app, ["recaption", str(tmp_path), "--captioner", "q@http://127.0.0.1:1/v1",
                                      "--rewriter", "g@http://127.0.0.1:1/v1", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ") and len(result.stderr.splitlines()) == 1
