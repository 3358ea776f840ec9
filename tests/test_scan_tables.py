"""Tables that hold images or name them, and lists of paths: each line an item, what is no path a failure."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from scan_world import pictures, write_folder
from test_scan_sources import NAMES, content, found

from safeguard_sdk import ScanError
from safeguard_sdk.scan.sources import Sources


@pytest.fixture(scope="module")
def files(photos) -> dict[str, bytes]:
    return dict(zip(NAMES, pictures(photos["coffee.png"], len(NAMES)), strict=True))


def parquet_of(**columns: list) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


TABLES: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "bytes.parquet": lambda files: parquet_of(image=list(files.values())),
    "dicts.parquet": lambda files: parquet_of(image=[{"bytes": data, "path": "x"} for data in files.values()]),
    "named.parquet": lambda files: parquet_of(picture=list(files.values()), image=["wrong"] * len(files)),
}


@pytest.mark.parametrize("name", TABLES)
def test_parquet_with_images_yields_them_by_row(files, tmp_path, name):
    (tmp_path / name).write_bytes(TABLES[name](files))
    column = "picture" if name == "named.parquet" else None
    assert found(tmp_path / name, column=column) == {
        f"row {number}": data for number, data in enumerate(files.values())}


@pytest.mark.parametrize("name", ["list.parquet", "list.csv", "list.tsv", "list.jsonl"])
def test_tables_with_paths_yield_the_files_beside_them(files, tmp_path, name):
    write_folder(tmp_path, files)
    text = io.StringIO()
    if name.endswith(".jsonl"):
        text.writelines(json.dumps({"id": 1, "file_name": path}) + "\n" for path in NAMES)
    else:
        csv.writer(text, delimiter="\t" if name.endswith(".tsv") else ",").writerows(
            [("id", "file_name"), *((1, path) for path in NAMES)])
    data = parquet_of(file_name=list(NAMES)) if name.endswith(".parquet") else text.getvalue().encode("utf-8-sig")
    (tmp_path / name).write_bytes(data)
    assert found(tmp_path / name) == {str(tmp_path / path): files[path] for path in NAMES}


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\0"])
def test_a_list_has_a_path_on_each_line_or_between_nul_bytes(files, tmp_path, separator, monkeypatch):
    monkeypatch.chdir(write_folder(tmp_path, files))
    Path("list.txt").write_bytes(separator.join(NAMES).encode())
    assert found("list.txt") == files
    with open("list.txt", "rb") as standing_in:
        monkeypatch.setattr("safeguard_sdk.scan.sources.STDIN_FILE", standing_in.fileno())
        assert found("-") == files


@pytest.mark.skipif(os.name == "nt", reason="pipes")
def test_the_lines_of_a_pipe_are_there_as_they_come(tmp_path, monkeypatch):
    reading, writing = os.pipe()
    monkeypatch.setattr("safeguard_sdk.scan.sources.STDIN_FILE", reading)
    items = iter(Sources(["-"]))
    for name in ("a.png", "b.png"):
        os.write(writing, name.encode() + b"\n")
        assert next(items).path == name
    os.close(writing)
    assert list(items) == []
    os.close(reading)


def test_rows_without_an_image_are_failures(files, tmp_path):
    (tmp_path / "gaps.parquet").write_bytes(parquet_of(image=[files["a.png"], None, b""]))
    assert found(tmp_path / "gaps.parquet") == {"row 0": files["a.png"], "row 1": "empty", "row 2": "empty"}
    (tmp_path / "gaps.jsonl").write_text('{"path": ""}\n[1]\nno json\n{"path": 7}\n')
    assert found(tmp_path / "gaps.jsonl") == {"line 1": "not_found", "line 2": "corrupt", "line 3": "corrupt",
                                              "line 4": "not_found"}


def test_a_table_without_a_usual_column_says_which_there_are(tmp_path):
    (tmp_path / "table.csv").write_text("photo,caption\nx.png,hello\n")
    with pytest.raises(ScanError, match=r"say which with --column, there are: photo, caption"):
        found(tmp_path / "table.csv")


@pytest.mark.parametrize("name, data", [("table.csv", b"photo,caption\nx.png,hello\ny.png,hello\n"),
                                        ("table.tsv", b"photo\tcaption\n"),
                                        ("table.parquet", parquet_of(photo=[b"x"], caption=["hello"]))])
def test_a_column_that_a_table_does_not_have_is_refused_once(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ScanError, match=r"has no column 'foto'; say which with --column, there are: photo, caption"):
        found(tmp_path / name, column="foto")


@pytest.mark.parametrize("name", ["list.txt", "table.csv", "table.jsonl"])
def test_a_line_longer_than_any_path_is_one_failure_and_is_not_read_whole(files, tmp_path, name, monkeypatch):
    monkeypatch.setattr("safeguard_sdk.scan.tables.MAX_LINE", 70_000)  # more than what is read at a time
    write_folder(tmp_path, files)
    first = {"list.txt": f"{tmp_path}/a.png\n", "table.csv": "path\na.png\n", "table.jsonl": '{"path": "a.png"}\n'}
    (tmp_path / name).write_text(first[name] + "x" * 140_001 + "\n" + first[name])
    items = list(Sources([str(tmp_path / name)]))
    assert [content(item) for item in items] == [files["a.png"], "unreadable"]
    assert "has a line of over 70000" in str(items[-1].failure)


def test_a_parquet_file_beside_photos_that_holds_none_is_passed_over(files, tmp_path):
    write_folder(tmp_path, {"a.png": files["a.png"], "captions.parquet": parquet_of(caption=["hello"]),
                            "paths.parquet": parquet_of(path=["a.png"]), "images.parquet": parquet_of(image=[b"x"])})
    sources = Sources([str(tmp_path)])
    assert {item.member or Path(item.path).name for item in sources} == {"a.png", "row 0"}
    assert sources.skipped == {".parquet": 2}


def test_a_file_that_is_no_parquet_is_a_failure(tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing else")
    assert list(found(tmp_path / "broken.parquet").values()) == ["corrupt"]
