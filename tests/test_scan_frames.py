"""Animations and videos in a scan: several frames are judged, the gravest counts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from image_files import file_of
from PIL import Image
from scan_world import DARK, MeanGuard, animation, by_name, pictures, rows_of, write_folder

from safeguard_sdk import ScanError
from safeguard_sdk.scan import Options, scan
from safeguard_sdk.scan.worker import sampled

ONE_WORKER = Options(workers=1)
ROOT = Path(__file__).parents[1]


@pytest.fixture
def guard(tmp_path) -> MeanGuard:
    return MeanGuard(DARK, tmp_path / "bundle")


@pytest.mark.parametrize("count, most, numbers", [
    (1, 4, [0]), (3, 4, [0, 1, 2]), (4, 4, [0, 1, 2, 3]),  # no more than there are
    (100, 2, [0, 99]), (100, 4, [0, 33, 66, 99]),          # first and last among them
])
def test_frames_are_sampled_evenly_from_the_first_to_the_last(count, most, numbers):
    assert sampled(count, most) == numbers


def test_of_an_animation_the_gravest_frame_counts_and_is_recorded(guard, tmp_path):
    colours = ["white", "red", "black", "blue", "green", "grey"]
    scores = {colour: guard.check(file_of(Image.new("RGB", (16, 16), colour), "PNG")).score for colour in colours}
    gravest = max(colours, key=scores.get)
    order = [colour for colour in colours if colour != gravest] + [gravest]
    folder = write_folder(tmp_path / "photos", {"a.gif": animation(order)})
    scan(guard, [folder], tmp_path / "all", Options(workers=1, frames=6, batch_size=4))
    (row,) = rows_of(tmp_path / "all")
    assert row["frame"] == 5 and row["score"] == pytest.approx(scores[gravest])
    scan(guard, [folder], tmp_path / "first", ONE_WORKER)
    (row,) = rows_of(tmp_path / "first")
    assert row["frame"] is None and row["score"] == guard.check(folder / "a.gif").score


def write_video(path: Path, colours: list[str], frames_each: int = 10) -> None:
    import av
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for colour in colours:
            for _ in range(frames_each):
                picture = np.asarray(Image.new("RGB", (64, 48), colour))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def test_of_a_video_the_gravest_of_its_sampled_frames_counts_and_its_number_is_recorded(guard, photos, tmp_path):
    pytest.importorskip("av", reason="the extra video is not installed")
    colours = ["white", "red", "black", "blue"]
    scores = {colour: guard.check(file_of(Image.new("RGB", (64, 48), colour), "PNG")).score for colour in colours}
    gravest = max(colours, key=scores.get)
    (still,) = pictures(photos["coffee.png"], 1)
    folder = write_folder(tmp_path / "photos", {"00.png": still, "cut.mp4": b"\0\0\0\x18ftypmp42"})
    write_video(folder / "a.mp4", colours)
    options = Options(workers=1, frames=4)
    assert scan(guard, [folder], tmp_path / "without", options)["skipped"] == {".mp4": 2}
    scan(guard, [folder], tmp_path / "with", options, videos=True)
    rows = by_name(tmp_path / "with")
    assert rows["cut.mp4"]["failure_kind"] is not None and rows["00.png"]["label"] is not None
    assert rows["a.mp4"]["frame"] == 10 * colours.index(gravest)
    assert rows["a.mp4"]["score"] == pytest.approx(scores[gravest], abs=0.05)


@pytest.mark.parametrize("name", [b"two\nlines.mp4", b"caf\xe9.mp4"])  # which messages have escaped, the end in quotes
def test_a_video_is_known_by_its_name_as_it_is(guard, tmp_path, name):
    pytest.importorskip("av", reason="the extra video is not installed")
    write_video(tmp_path / "a.mp4", ["white"])
    try:
        path = (tmp_path / "a.mp4").rename(tmp_path / os.fsdecode(name))
    except OSError as error:
        pytest.skip(f"this file system refuses the name: {error.strerror}")
    assert scan(guard, [path], tmp_path / "out", ONE_WORKER)["failed"] == 0


def test_a_named_video_without_pyav_is_a_failure_that_says_how_to_install_it(tmp_path):
    write_folder(tmp_path, {"a.mp4": b"\0\0\0\x18ftypmp42", "absent/av.py": b"raise ImportError('none here')\n"})
    program = ("import sys; from pathlib import Path; from scan_world import DARK, MeanGuard; "
               "from safeguard_sdk.scan import Options, scan; "
               "scan(MeanGuard(DARK, Path('bundle')), ['a.mp4'], 'out', Options(workers=1))")
    paths = os.pathsep.join(map(str, (tmp_path / "absent", ROOT, ROOT / "tests")))  # decoders look there as well
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths}, check=True)
    (row,) = rows_of(tmp_path / "out")
    assert row["failure_kind"] == "unsupported"
    assert row["failure"].endswith("needs PyAV (none here); install it: pip install 'safeguard[video]'")


def test_without_pyav_videos_are_refused_with_the_line_that_installs_it(guard, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ScanError, match=r"pip install 'safeguard\[video\]'"):
        scan(guard, [photos["coffee.png"]], tmp_path / "out", ONE_WORKER, videos=True)
