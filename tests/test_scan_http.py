"""Sources behind HTTP, from a real server on this machine: files, folders that a server lists, archives, lists."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from scan_world import DARK, MeanGuard, by_name, pictures, rows_of, write_folder
from test_scan_sources import tar_of, zip_of

from safeguard_sdk.scan import Options, scan
from safeguard_sdk.scan.rows import record_of

pytest.importorskip("aiohttp", reason="fsspec reads HTTP through aiohttp: pip install aiohttp")


class Serves(SimpleHTTPRequestHandler):
    """A folder, with byte ranges, which the reader of a zip asks for; as web servers and object stores serve files."""

    protocol_version = "HTTP/1.1"

    def send_head(self):
        if self.path.endswith("secret.png"):
            return self.send_error(403)
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if asked is None or not path.is_file():
            return super().send_head()
        start, end = int(asked[1]), min(int(asked[2]), path.stat().st_size - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end}/{path.stat().st_size}")
        self.send_header("Content-Length", str(end - start + 1))
        self.end_headers()
        self.wfile.write(path.read_bytes()[start:end + 1])
        return None

    def end_headers(self) -> None:
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def files(photos) -> dict[str, bytes]:
    return {f"{number}.png": data for number, data in enumerate(pictures(photos["coffee.png"], 3))}


@pytest.fixture(scope="module")
def served(files, tmp_path_factory) -> Iterator[str]:
    """The address of a server of photos, beside archives of the same."""
    folder = write_folder(tmp_path_factory.mktemp("served"), {
        **{f"photos/{name}": data for name, data in files.items()}, "photos/notes.txt": b"hello",
        "photos.zip": zip_of(files), "photos.tar": tar_of(files)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *request: Serves(*request, directory=folder))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def guard(tmp_path) -> MeanGuard:
    return MeanGuard(DARK, tmp_path / "bundle")


@pytest.mark.parametrize("source", ["photos/", "photos/*.png", "photos.zip", "photos.tar"])
def test_images_behind_http_have_the_verdicts_of_check(guard, files, served, tmp_path, source):
    summary = scan(guard, [f"{served}/{source}"], tmp_path / "out", Options(workers=1))
    rows = by_name(tmp_path / "out")
    assert {name: record_of(row).verdict for name, row in rows.items()} == {
        name: guard.check(data) for name, data in files.items()}
    assert summary["failed"] == 0 and all(row["path"].startswith(served) for row in rows.values())


def test_a_list_of_addresses_is_fetched_and_what_is_not_there_is_a_failure(guard, files, served, tmp_path):
    (tmp_path / "list.txt").write_text(f"{served}/photos/1.png\n{served}/photos/gone.png\n{served}/secret.png\n")
    scan(guard, [tmp_path / "list.txt"], tmp_path / "out", Options(workers=1))
    rows = by_name(tmp_path / "out")
    assert record_of(rows["1.png"]).verdict == guard.check(files["1.png"])
    assert rows["gone.png"]["failure_kind"] == "not_found"
    assert rows["secret.png"]["failure_kind"] == "unreadable" and "403" in rows["secret.png"]["failure"]


def test_a_server_that_does_not_answer_is_not_taken_for_a_file_that_is_not_there(guard, tmp_path):
    scan(guard, ["http://127.0.0.1:1/0.png"], tmp_path / "out", Options(workers=1))
    (row,) = rows_of(tmp_path / "out")
    assert row["failure_kind"] == "unreadable" and row["failure"].endswith("try again with --retry-failed")
