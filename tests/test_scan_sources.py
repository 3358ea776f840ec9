"""What a source yields: every image once, whatever it is packed in; what is broken as a failure; nothing is lost."""

from __future__ import annotations

import gc
import gzip
import io
import os
import socket
import sys
import tarfile
import zipfile
from pathlib import Path

import fsspec
import pytest
from scan_world import pictures, write_folder

from safeguard_sdk import ImageError, ScanError
from safeguard_sdk.scan.item import Item
from safeguard_sdk.scan.sources import Sources

NAMES = ("a.png", "sub/b.PNG", "sub/deep/c")  # the last is known by its content


@pytest.fixture(scope="module")
def files(photos) -> dict[str, bytes]:
    return dict(zip(NAMES, pictures(photos["coffee.png"], len(NAMES)), strict=True))


def content(item: Item) -> bytes | str:
    """What the item holds, or the kind of its failure."""
    if item.failure is not None:
        return item.failure.kind
    if item.load is not None:
        return item.load()
    return item.data if item.data is not None else Path(item.path).read_bytes()


def found(*sources: object, **options: object) -> dict[str, bytes | str]:
    """Name → content of all items; each name once."""
    items = list(Sources([str(source) for source in sources], **options))
    named = {item.member if item.member is not None else item.path: content(item) for item in items}
    assert len(named) == len(items), [item.name for item in items]
    return named


def zip_of(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tar_of(files: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


# Folders and globs

def test_a_folder_yields_every_image_below_it_and_counts_what_it_passes_over(files, tmp_path):
    write_folder(tmp_path, files | {"notes.txt": b"hello", "sub/list.csv": b"path\nx.png\n", "sub/README": b""})
    sources = Sources([str(tmp_path)])
    assert {item.path: content(item) for item in sources} == {str(tmp_path / name): files[name] for name in NAMES}
    assert sources.skipped == {".txt": 1, ".csv": 1, "": 1}
    assert Sources([str(tmp_path / "a.png"), str(tmp_path / "sub")]).count() == 2  # by their names, for the time left


def test_a_glob_is_searched(files, tmp_path):
    write_folder(tmp_path, files)
    assert found(f"{tmp_path}/**/*.PNG") == {str(tmp_path / "sub/b.PNG"): files["sub/b.PNG"]}
    assert set(found(f"{tmp_path}/**")) == {str(tmp_path / name) for name in NAMES}


def test_a_glob_that_fits_nothing_is_an_error_as_a_path_that_does_not_exist_is(tmp_path):
    with pytest.raises(ScanError, match=r"nope\*\.jpg: no file or folder fits this glob; check the path"):
        Sources([str(tmp_path / "nope*.jpg")])


def test_a_file_whose_name_looks_like_a_glob_is_that_file(files, tmp_path):
    write_folder(tmp_path, {"[a].png": files["a.png"], "a.png": b"another"})
    assert found(tmp_path / "[a].png") == {str(tmp_path / "[a].png"): files["a.png"]}


def test_links_in_circles_end_and_each_real_folder_is_read_once(files, tmp_path):
    folder = write_folder(tmp_path / "photos", files)
    (folder / "sub/up").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")
    for name in ("one", "two"):
        (folder / name).symlink_to(folder / "sub")
    items = list(Sources([str(folder)]))
    images = [item for item in items if item.failure is None]
    assert sorted(Path(item.path).name for item in images) == ["a.png", "b.PNG", "c"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_a_failure_and_the_others_are_read(files, tmp_path):
    write_folder(tmp_path, files)
    (tmp_path / "sub").chmod(0)
    try:
        assert found(tmp_path) == {str(tmp_path / "a.png"): files["a.png"], str(tmp_path / "sub"): "unreadable"}
    finally:
        (tmp_path / "sub").chmod(0o700)


def test_a_folder_that_fails_while_it_is_read_is_a_failure(files, tmp_path, monkeypatch):
    write_folder(tmp_path, files)
    scandir = os.scandir

    def failing(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    items = found(tmp_path)
    assert items[str(tmp_path / "sub/deep")] == "unreadable" and len(items) == 3


@pytest.mark.skipif(os.name == "nt", reason="sockets and pipes among files")
def test_pipes_and_sockets_are_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        sources = Sources([str(tmp_path)])
        assert list(sources) == [] and sources.skipped == {"": 2}


def test_a_source_that_does_not_exist_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ScanError, match="no such file or folder; check the path"):
        Sources([str(tmp_path / "photo.png")])
    with pytest.raises(ScanError, match="nothing to scan"):
        Sources([])


def test_a_named_file_is_an_item_whatever_it_is_called(tmp_path):
    write_folder(tmp_path, {"notes.md": b"hello"})
    assert found(tmp_path / "notes.md") == {str(tmp_path / "notes.md"): b"hello"}


# Archives

ARCHIVES = {"deflated.zip": zip_of, "stored.zip": lambda files: zip_of(files, zipfile.ZIP_STORED),
            "plain.tar": tar_of, "small.tar.gz": lambda files: tar_of(files, "w:gz"),
            "smaller.tar.bz2": lambda files: tar_of(files, "w:bz2"),
            "smallest.tar.xz": lambda files: tar_of(files, "w:xz")}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_yields_its_images_named_by_archive_and_member(files, tmp_path, name):
    (tmp_path / name).write_bytes(ARCHIVES[name](files | {"caption.txt": b"a photo", "meta.json": b"{}"}))
    sources = Sources([str(tmp_path / name)])
    items = list(sources)
    assert {item.member: item.data for item in items} == files
    assert {item.path for item in items} == {str(tmp_path / name)}
    assert sources.skipped == {".txt": 1, ".json": 1}


@pytest.mark.parametrize("name", ["deflated.zip", "plain.tar"])
def test_an_archive_is_known_by_its_content_and_found_in_a_folder_by_its_name(files, tmp_path, name):
    (tmp_path / "archive").write_bytes(ARCHIVES[name](files))
    assert found(tmp_path / "archive") == files
    (tmp_path / "archive").rename(tmp_path / name)
    assert found(tmp_path) == files


@pytest.mark.parametrize("outer", ["deflated.zip", "plain.tar", "small.tar.gz"])
@pytest.mark.parametrize("inner", ["deflated.zip", "small.tar.gz"])
def test_an_archive_within_an_archive_is_read_and_one_within_that_is_a_failure(files, tmp_path, outer, inner):
    third = ARCHIVES["plain.tar"](files)
    second = ARCHIVES[inner](files | {"third.tar": third})
    (tmp_path / outer).write_bytes(ARCHIVES[outer]({inner: second, "a.png": files["a.png"]}))
    assert found(tmp_path / outer) == {"a.png": files["a.png"], f"{inner}!/third.tar": "unsupported"} | {
        f"{inner}!/{name}": data for name, data in files.items()}


@pytest.mark.parametrize("name", ["plain.tar", "small.tar.gz", "smallest.tar.xz"])
def test_a_tar_that_is_cut_off_yields_what_comes_before_and_a_failure(files, tmp_path, name):
    data = ARCHIVES[name]({str(number): files["a.png"] + os.urandom(4000) for number in range(20)})
    (tmp_path / name).write_bytes(data[:len(data) * 2 // 3])
    items = list(Sources([str(tmp_path / name)]))
    assert [item.failure is None for item in items] == [True] * (len(items) - 1) + [False]
    assert 1 < len(items) < 20 and items[-1].failure.kind in ("truncated", "corrupt")


@pytest.mark.parametrize("cut", [0, 100, 512], ids=["between members", "within a header", "after a header"])
def test_a_tar_that_is_cut_where_it_might_end_or_has_a_broken_header_is_a_failure_too(files, tmp_path, cut):
    data = tar_of({"1.png": files["a.png"], "2.png": files["a.png"]})
    second = data.index(b"2.png")
    (tmp_path / "cut.tar").write_bytes(data[:second + cut])
    (tmp_path / "broken.tar").write_bytes(data[:second] + b"?" * 512 + data[second + 512:])
    for name in ("cut.tar", "broken.tar"):
        items = list(Sources([str(tmp_path / name)]))
        assert items[0].failure is None and items[-1].failure is not None and len(items) <= 3


def test_a_named_gzip_that_is_cut_off_is_a_failure_whatever_it_is_called(files, tmp_path):
    (tmp_path / "backup").write_bytes(gzip.compress(os.urandom(5000))[:200])
    items = list(Sources([str(tmp_path / "backup"), str(write_folder(tmp_path / "photos", files))]))
    assert items[0].failure.kind == "truncated" and len(items) == 1 + len(NAMES)


def test_a_zip_without_its_end_is_a_failure_and_one_broken_member_is_one_failure(files, tmp_path):
    data = bytearray(zip_of(files, zipfile.ZIP_STORED))
    (tmp_path / "cut.zip").write_bytes(data[:-10])
    assert list(found(tmp_path / "cut.zip").values()) == ["corrupt"]
    at = data.index(files["a.png"]) + 200
    data[at] ^= 1  # its checksum is wrong now
    (tmp_path / "bit.zip").write_bytes(data)
    assert found(tmp_path / "bit.zip") == files | {"a.png": "corrupt"}


def test_a_zip_with_a_password_is_a_failure_for_each_member(files, tmp_path):
    data = bytearray(zip_of({"a.png": files["a.png"]}))
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + flags] |= 1
    (tmp_path / "secret.zip").write_bytes(data)
    assert found(tmp_path / "secret.zip") == {"a.png": "unreadable"}


def test_a_member_that_unpacks_to_more_than_the_limit_is_a_failure_and_takes_no_memory(files, tmp_path, monkeypatch):
    monkeypatch.setattr("safeguard_sdk.scan.archives.MAX_FILE_BYTES", 10_000)
    (tmp_path / "bomb.zip").write_bytes(zip_of({"bomb.png": bytes(10_001), "a.png": files["a.png"]}))
    assert found(tmp_path / "bomb.zip") == {"bomb.png": "too_large", "a.png": files["a.png"]}


def test_names_that_point_out_of_the_archive_are_only_names(files, tmp_path):
    (tmp_path / "evil.tar").write_bytes(tar_of({"../../etc/passwd.png": files["a.png"], "/root/b.png": files["a.png"]}))
    assert found(tmp_path / "evil.tar") == {"../../etc/passwd.png": files["a.png"], "/root/b.png": files["a.png"]}


def test_links_and_devices_in_a_tar_are_passed_over(files, tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
            entry = tarfile.TarInfo(f"{kind}.png")
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
    (tmp_path / "links.tar").write_bytes(buffer.getvalue())
    sources = Sources([str(tmp_path / "links.tar")])
    assert list(sources) == [] and sources.skipped == {"a link or a device": 3}


@pytest.mark.parametrize("name", ["photos.rar", "photos.7z", "photos.tar.zst"])
def test_an_archive_that_is_not_read_here_is_a_failure_and_not_passed_over(tmp_path, name):
    (tmp_path / name).write_bytes(b"Rar!")
    assert found(tmp_path) == {str(tmp_path / name): "unsupported"}
    fsspec.filesystem("memory").pipe(f"/others/{name}", b"Rar!")
    assert found(f"memory://others/*{name}") == {f"memory:///others/{name}": "unsupported"}


def test_a_tar_of_many_members_takes_the_memory_of_few(files, tmp_path):
    (tmp_path / "many.tar").write_bytes(tar_of({f"{number}.png": files["a.png"] for number in range(500)}))
    for number, _ in enumerate(Sources([str(tmp_path / "many.tar")])):
        if number == 400:
            kinds = map(type, gc.get_objects())  # isinstance asks proxies
            headers = [kind for kind in kinds if issubclass(kind, tarfile.TarInfo)]
    assert number == 499 and len(headers) <= 5


# Far away

def test_urls_are_read_through_fsspec_folders_globs_archives_and_lists(files, tmp_path):
    system = fsspec.filesystem("memory")
    for name, data in {**files, "far.zip": zip_of({"in.png": files["a.png"]}), "note.txt": b"hello"}.items():
        system.pipe(f"/bucket/{name}", data)
    assert found("memory://bucket") == {
        "memory:///bucket/a.png": files["a.png"], "memory:///bucket/sub/b.PNG": files["sub/b.PNG"],
        "in.png": files["a.png"]}
    assert found("memory://bucket/*.png") == {"memory:///bucket/a.png": files["a.png"]}
    assert found("memory://bucket/far.zip") == {"in.png": files["a.png"]}
    (tmp_path / "list.txt").write_text("memory://bucket/a.png\nmemory://bucket/gone.png\n")
    items = {item.path: item for item in Sources([str(tmp_path / "list.txt")])}
    assert content(items["memory://bucket/a.png"]) == files["a.png"]
    with pytest.raises(ImageError, match="no such file"):
        content(items["memory://bucket/gone.png"])


def test_a_protocol_that_nobody_knows_is_refused(tmp_path):
    with pytest.raises(ScanError, match="cannot be opened"):
        found("gopher://photos/")


def test_without_fsspec_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ScanError, match=r"pip install 'safeguard\[remote\]'"):
        found("s3://bucket/photo.png")
