"""Sources in S3, through s3fs, from a stand-in on this machine for what it asks: lists, heads and byte ranges."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from scan_world import DARK, MeanGuard, by_name, pictures
from test_scan_sources import zip_of

from safeguard_sdk.scan import Options, scan
from safeguard_sdk.scan.rows import record_of

pytest.importorskip("s3fs", reason="fsspec reads S3 through s3fs, which is 40 MB: pip install s3fs")
LIST = '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>false</IsTruncated>{}</ListBucketResult>'
FILE = ("<Contents><Key>{}</Key><Size>{}</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        "<StorageClass>STANDARD</StorageClass></Contents>")
FOLDER = "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>"


class Bucket(BaseHTTPRequestHandler):
    """One bucket whose objects are those of the server."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        key = unquote(url.path).lstrip("/").partition("/")[2]
        objects = self.server.objects
        if not key:
            self._answer(200, self._list(parse_qs(url.query)))
        elif key not in objects:
            self._answer(404, b"")
        elif asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            start, end = int(asked[1]), min(int(asked[2]) + 1, len(objects[key]))
            self._answer(206, objects[key][start:end], f"bytes {start}-{end - 1}/{len(objects[key])}")
        else:
            self._answer(200, objects[key])

    do_HEAD = do_GET

    def _list(self, query: dict[str, list[str]]) -> bytes:
        prefix, delimiter = (query.get(name, [""])[0] for name in ("prefix", "delimiter"))
        entries = []
        for key, data in sorted(self.server.objects.items()):
            inner, is_deeper, _ = key.removeprefix(prefix).partition(delimiter or "\0")
            if key.startswith(prefix):
                entries.append(FOLDER.format(prefix + inner + delimiter) if is_deeper else FILE.format(key, len(data)))
        return LIST.format("".join(dict.fromkeys(entries))).encode()

    def _answer(self, status: int, body: bytes, content_range: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def files(photos) -> dict[str, bytes]:
    return {f"{number}.png": data for number, data in enumerate(pictures(photos["coffee.png"], 3))}


@pytest.fixture
def bucket(files, monkeypatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    server.daemon_threads = True
    server.objects = {"photos/0.png": files["0.png"], "photos/deep/1.png": files["1.png"],
                      "photos/deep/2.png": files["2.png"], "photos/notes.txt": b"hello", "photos.zip": zip_of(files)}
    for name, value in {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_address[1]}", "AWS_ACCESS_KEY_ID": "any",
                        "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    import fsspec
    fsspec.filesystem("s3").clear_instance_cache()  # or it would ask the server of the test before
    yield "s3://bucket"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("source, skipped", [("photos", {".txt": 1}), ("photos/**/*.png", {}), ("photos.zip", {})])
def test_images_in_s3_have_the_verdicts_of_check(files, bucket, tmp_path, source, skipped):
    guard = MeanGuard(DARK, tmp_path / "bundle")
    summary = scan(guard, [f"{bucket}/{source}"], tmp_path / "out", Options(workers=1))
    rows = by_name(tmp_path / "out")
    assert {name: record_of(row).verdict for name, row in rows.items()} == {
        name: guard.check(data) for name, data in files.items()}
    assert summary["failed"] == 0 and summary["skipped"] == skipped


def test_what_is_not_in_the_bucket_is_a_failure(bucket, tmp_path):
    (tmp_path / "list.txt").write_text(f"{bucket}/gone.png\n")
    scan(MeanGuard(DARK, tmp_path / "bundle"), [tmp_path / "list.txt"], tmp_path / "out", Options(workers=1))
    assert by_name(tmp_path / "out")["gone.png"]["failure_kind"] == "not_found"
