"""A scan loses and repeats nothing: killed, on a full disk, with a damaged part, or with decoders that die."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from multiprocessing import forkserver
from pathlib import Path

import psutil
import pyarrow.parquet
import pytest
from image_files import png
from scan_world import DARK, MeanGuard, by_name, pictures, rows_of, write_folder

from safeguard_sdk import ScanError
from safeguard_sdk.errors import ImageError
from safeguard_sdk.image import SquareGeometry
from safeguard_sdk.scan import Limits, Options, scan
from safeguard_sdk.scan.decoding import Decoder, prepare_to_start
from safeguard_sdk.scan.output import ScanFolder

KILLS = int(os.environ.get("SCAN_KILLS", "55"))  # SCAN_KILLS=1000 for an afternoon
HAS_PDQ = importlib.util.find_spec("pdqhash") is not None
ROOT = Path(__file__).parents[1]
SMALL_PARTS = Options(workers=2, part_rows=4)
SQUARE = SquareGeometry(side=32, mean=(0.5,) * 3, std=(0.25,) * 3, resample="bilinear")


@pytest.fixture(scope="module")
def guard(tmp_path_factory) -> MeanGuard:
    return MeanGuard(DARK, tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photos) -> Path:
    files = {f"{number:03}.png": data for number, data in enumerate(pictures(photos["coffee.png"], 40))}
    return write_folder(tmp_path_factory.mktemp("photos"), files)


@pytest.fixture(scope="module")
def whole(guard, folder, tmp_path_factory) -> list[dict]:
    """The rows of a scan that nothing happens to."""
    out = tmp_path_factory.mktemp("whole")
    scan(guard, [folder], out, SMALL_PARTS)
    return rows_of(out)


def parts_of(out: Path) -> list[Path]:
    return sorted((out / "parts").glob("*.parquet"))


# Killed

@pytest.mark.skipif(os.name == "nt", reason="fork")
@pytest.mark.filterwarnings("ignore:Duplicate name")  # which a zip may hold
def test_a_scan_that_is_killed_at_random_moments_ends_with_exactly_the_rows_of_one_that_is_not(guard, photos, tmp_path):
    made = pictures(photos["coffee.png"], KILLS * 24)
    write_folder(tmp_path / "photos", {
        f"{number % 7}/{number}.png": data for number, data in enumerate(made) if number % 3} | {
        f"bad/{number}.png": made[number][:100] for number in range(0, len(made), 10)} | {
        f"same/{number}.png": made[number] for number in range(0, len(made), 12)})
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for number, data in enumerate(made):
            if number % 3 == 0:
                archive.writestr("repeated.png" if number % 30 == 0 else f"{number}.png", data)
    command = [sys.executable, Path(__file__).with_name("scan_victim.py"), tmp_path / "photos", tmp_path / "out",
               guard.bundle.path, str(KILLS), "1"]
    paths = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))}
    victim = subprocess.run(command, env=os.environ | paths, capture_output=True, text=True, check=False)
    assert (victim.returncode, victim.stdout) == (0, f"{KILLS}\n"), victim.stderr
    scan(guard, [tmp_path / "photos", tmp_path / "photos.zip"], tmp_path / "whole",
         Options(workers=2, near_duplicates=HAS_PDQ))
    rows = rows_of(tmp_path / "out")
    assert rows == rows_of(tmp_path / "whole")
    for found in (tmp_path / "whole").glob("duplicates.*"):
        assert (tmp_path / "out" / found.name).read_bytes() == found.read_bytes()
    assert len(rows) == len({row["id"] for row in rows}) > KILLS * 20
    summaries = [json.loads((tmp_path / out / "summary.json").read_text()) for out in ("out", "whole")]
    assert [summary.pop("last_run") is not None for summary in summaries] == [True, True]
    assert summaries[0] == summaries[1]
    assert {path.suffix for path in (tmp_path / "out/parts").iterdir()} == {".parquet"}


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_control_c_keeps_what_is_judged(guard, folder, whole, tmp_path):
    threading.Timer(0.6, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        scan(guard, [folder], tmp_path / "out", Options(workers=1, max_rate=20))
    kept = rows_of(tmp_path / "out")
    assert 0 < len(kept) < len(whole)
    assert scan(guard, [folder], tmp_path / "out", Options(workers=1))["last_run"]["rows"] == len(whole) - len(kept)
    assert rows_of(tmp_path / "out") == whole


def test_control_c_does_not_wait_until_the_next_image_is_due(guard, folder, tmp_path):
    interrupted: list[float] = []

    def interrupt(progress) -> None:
        if progress.rows and not interrupted:
            interrupted.append(time.monotonic())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(guard, [folder], tmp_path / "out", Options(workers=2, max_rate=0.01), watch=interrupt)
    assert time.monotonic() - interrupted[0] < 30 and len(rows_of(tmp_path / "out")) == 1


# Damaged

DAMAGE = {
    "cut off": lambda part: part.write_bytes(part.read_bytes()[:200]),
    "one bit": lambda part: part.write_bytes(part.read_bytes()[:-9] + b"\xff" + part.read_bytes()[-8:]),
    "empty": lambda part: part.write_bytes(b""),
    "gone": lambda part: part.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_part_is_put_aside_and_its_rows_are_made_again(guard, folder, whole, tmp_path, damage):
    scan(guard, [folder], tmp_path / "out", SMALL_PARTS)
    *_, last = parts_of(tmp_path / "out")
    DAMAGE[damage](last)
    assert scan(guard, [folder], tmp_path / "out", SMALL_PARTS)["last_run"]["rows"] == 4
    assert rows_of(tmp_path / "out") == whole
    assert last.with_name(f"{last.name}.damaged").exists() == (damage != "gone")


@pytest.mark.parametrize("keep", [0, 1, 40, -1], ids=["nothing", "a letter", "half", "all but the line end"])
def test_a_manifest_line_that_is_cut_off_does_not_count(guard, folder, whole, tmp_path, keep):
    scan(guard, [folder], tmp_path / "out", SMALL_PARTS)
    manifest = tmp_path / "out/manifest.jsonl"
    *lines, last = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(b"".join(lines) + last[:keep])
    assert scan(guard, [folder], tmp_path / "out", SMALL_PARTS)["last_run"]["rows"] == 4
    assert rows_of(tmp_path / "out") == whole


def test_what_the_manifest_does_not_name_does_not_count(guard, folder, whole, tmp_path):
    scan(guard, [folder], tmp_path / "out", SMALL_PARTS)
    first = parts_of(tmp_path / "out")[0]
    first.with_name("part-00000099.parquet").write_bytes(first.read_bytes())
    first.with_name("part-00000100.parquet.new").write_bytes(b"half")
    scan(guard, [folder], tmp_path / "out", SMALL_PARTS)
    assert rows_of(tmp_path / "out") == whole
    assert len(parts_of(tmp_path / "out")) == len(whole) // 4


def test_a_lost_part_takes_no_embedding_with_it(guard, tmp_path, photos):
    """The file that stays has a row without an embedding of its own: its outcome must not stand in for one."""
    (data,) = pictures(photos["coffee.png"], 1)
    folder = write_folder(tmp_path / "photos", {"a.png": data, "b.png": data})
    options = Options(workers=1, part_rows=1, cache_embeddings=True)
    scan(guard, [folder], tmp_path / "out", options)
    parts_of(tmp_path / "out")[0].unlink()
    scan(guard, [folder], tmp_path / "out", options)
    with ScanFolder.open(tmp_path / "out") as out:
        embedded = [out.embeddings_file(part) for part in out.parts]
    assert sum(pyarrow.parquet.read_metadata(file).num_rows for file in embedded) == 1


# A full disk

@pytest.fixture
def small_disk(tmp_path):
    """A file system of 120 kB; resize(kilobytes) changes that."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options: str) -> subprocess.CompletedProcess:
        return subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(place)], capture_output=True, check=False)

    if sys.platform != "linux" or os.geteuid() != 0 or mount("-o", "size=120k").returncode != 0:
        pytest.skip("mounting a small tmpfs needs root on Linux")
    yield place, lambda kilobytes: mount("-o", f"remount,size={kilobytes}k")
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_one_line_and_with_space_the_same_command_goes_on(guard, folder, whole, small_disk):
    place, resize = small_disk
    with pytest.raises(ScanError, match=r"(No space left on device|disk is full).*same command") as caught:
        scan(guard, [folder], place / "out", SMALL_PARTS)
    assert "\n" not in str(caught.value)
    assert resize(64_000).returncode == 0
    kept = sum(part.rows for part in ScanFolder.open(place / "out").parts)
    summary = scan(guard, [folder], place / "out", SMALL_PARTS)
    assert summary["last_run"]["rows"] == len(whole) - kept
    assert rows_of(place / "out") == whole


# Decoders that die

@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_decoder_that_is_killed_once_over_a_file_or_while_it_waits_costs_no_row(
        guard, folder, whole, tmp_path, monkeypatch):
    prepare, killed = Decoder.prepare, set()

    def killed_now_and_then(self, name, *options):
        turn = int(name[-7:-4]) % 4
        if turn == 0 and name not in killed:
            killed.add(name)
            os.kill(self._process.pid, signal.SIGKILL)
        prepared = prepare(self, name, *options)
        if turn == 1:
            killed.add(name)
            os.kill(self._process.pid, signal.SIGKILL)
        return prepared

    monkeypatch.setattr(Decoder, "prepare", killed_now_and_then)
    scan(guard, [folder], tmp_path / "out", Options(workers=2))
    assert len(killed) == len(whole) // 2
    assert rows_of(tmp_path / "out") == whole


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_file_that_kills_its_decoder_is_a_failure_row_and_the_next_file_has_a_new_decoder(
        guard, folder, whole, tmp_path, monkeypatch):
    prepare = Decoder.prepare

    def dying(self, name, *options):
        if name.endswith("007.png"):
            os.kill(self._process.pid, signal.SIGSEGV)
        return prepare(self, name, *options)

    monkeypatch.setattr(Decoder, "prepare", dying)
    scan(guard, [folder], tmp_path / "out", Options(workers=1))
    rows = by_name(tmp_path / "out")
    row = rows.pop("007.png")
    assert row["failure_kind"] == "crashed" and "its decoder died (SIGSEGV)" in row["failure"]
    assert sorted(rows.values(), key=lambda one: one["id"]) == [one for one in whole if one["id"] != row["id"]]


def bomb() -> bytes:
    """A PNG of 144 megapixels in some kilobytes: within the limits of a header, and slow and large to decode."""
    side = 12_000
    return png(side, side, 1, 0, bytes(side * side // 8))


def test_a_file_that_takes_too_long_is_a_failure_row(guard, folder, whole, tmp_path):
    (tmp_path / "slow.png").write_bytes(bomb())
    started = time.monotonic()
    scan(guard, [folder, tmp_path / "slow.png"], tmp_path / "out", Options(workers=2, limits=Limits(seconds=0.2)))
    rows = by_name(tmp_path / "out")
    assert rows.pop("slow.png")["failure_kind"] == "timeout"
    assert len(rows) == len(whole) and time.monotonic() - started < 60


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is kept on Linux alone")
def test_a_file_that_needs_too_much_memory_is_a_failure_row(guard, folder, whole, tmp_path):
    (tmp_path / "large.png").write_bytes(bomb())
    limits = Limits(memory_bytes=128 << 20)
    scan(guard, [folder, tmp_path / "large.png"], tmp_path / "out", Options(workers=1, limits=limits))
    rows = by_name(tmp_path / "out")
    assert rows.pop("large.png")["failure_kind"] in ("too_large", "crashed")
    assert sorted(rows.values(), key=lambda one: one["id"]) == whole


def test_a_decoder_that_died_is_an_error_once_and_then_works_again(photos):
    path = str(photos["coffee.png"])
    decoder = Decoder(SQUARE, Limits())
    try:
        expected = decoder.read(path, path)
        os.kill(decoder._process.pid, signal.SIGKILL)
        with pytest.raises(ImageError, match="its decoder died") as caught:
            decoder.prepare(path, 1)
        assert caught.value.kind == "crashed"
        assert decoder.read(path, path) == expected
        assert [one.shape for one in decoder.prepare(path, 1).inputs] == [(3, 32, 32)]
    finally:
        decoder.close()


@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="no server forks here")
def test_a_server_of_decoders_that_was_killed_is_replaced(guard, folder, whole, tmp_path):
    prepare_to_start()
    forkserver.ensure_running()
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
    scan(guard, [folder], tmp_path / "out", Options(workers=2))
    assert rows_of(tmp_path / "out") == whole


def prepared(**other: object) -> bytes:
    return json.dumps({"frames": [0], "sizes": [[2, 2]], "pdq": None} | other).encode()


NONSENSE = {
    "no JSON": [b"\x80\x04N."],
    "another JSON": [b"[]"],
    "an unknown failure": [b'{"kind": "fine", "message": ""}'],
    "more frames than were asked for": [prepared(frames=[0, 1], sizes=[[2, 2]] * 2)],
    "frames without sizes": [prepared(sizes=[])],
    "a frame beyond all": [prepared(frames=[1 << 31])],
    "no pixel": [prepared(sizes=[[0, 2]])],
    "a hash of other bits": [prepared(pdq=["00", 100])],
    "fewer values": [prepared(), bytes(3 * 32 * 32 * 4 - 1)],
    "more values": [prepared(), bytes(3 * 32 * 32 * 4 + 1)],
}


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_a_decoder_that_answers_with_nonsense_is_ended_and_its_file_is_a_failure(photos, nonsense):
    """As one might that a hostile file has taken over."""
    path = str(photos["coffee.png"])
    decoder = Decoder(SQUARE, Limits())
    try:
        decoder.read(path, path)
        process, ours = decoder._process, decoder._pipe
        ours.close()
        decoder._pipe, theirs = multiprocessing.Pipe()
        with theirs:
            for message in NONSENSE[nonsense]:
                theirs.send_bytes(message)
            with pytest.raises(ImageError, match="gave an answer without sense") as caught:
                decoder.prepare(path, 1)
        assert caught.value.kind == "crashed" and decoder._process is None
        with pytest.raises(ValueError, match="process object is closed"):
            process.is_alive()
    finally:
        decoder.close()


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_no_decoder_outlives_a_scan(guard, folder, tmp_path):
    scan(guard, [folder], tmp_path / "out", SMALL_PARTS)
    own = {process.pid for process in psutil.Process().children()}  # the server that forks decoders, and the like
    assert [process for process in psutil.Process().children(recursive=True) if process.pid not in own] == []
