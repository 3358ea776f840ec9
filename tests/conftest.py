"""Fixtures for all tests: real photos out of installed packages, the shared data where a checkout has it, and what the
tests of training share. Those that need torch import it when they are asked for."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

import safeguard_sdk  # noqa: F401, before ONNX Runtime, whose telemetry it turns off

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"  # beside the repository
PHOTO_FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """shared_data("odd/pngsuite") is that folder, or skips the test."""

    def locate(relative: str) -> Path:
        if not (SHARED_DATA / relative).exists():
            pytest.skip(f"../shared/data/{relative} does not exist beside this repository")
        return SHARED_DATA / relative

    return locate


@pytest.fixture(scope="session")
def photos() -> dict[str, Path]:
    """The sample photos of scikit-image and scikit-learn by file name, such as "astronaut.png" and "china.jpg"."""
    found = {}
    for package, folder in PHOTO_FOLDERS.items():
        if (spec := importlib.util.find_spec(package)) is None:
            pytest.skip(f"the sample photos come with {package}: pip install scikit-image scikit-learn")
        files = (Path(spec.origin).parent / folder).iterdir()
        found |= {path.name: path for path in files if path.suffix in (".jpg", ".png")}
    return found


@pytest.fixture(scope="session")
def small(photos) -> Image.Image:
    """A real photo, 96 × 64; its sides differ, so a swapped axis shows."""
    with Image.open(photos["china.jpg"]) as photo:
        return photo.resize((96, 64))


@pytest.fixture(scope="session")
def scanned(photos, tmp_path_factory) -> Path:
    """The folder of a finished scan of real photos by the embedded model; tests copy it."""
    from review_world import scan_photos
    return scan_photos(tmp_path_factory.mktemp("scanned"), photos)


# Training.

@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Sums in parallel may come out in another order."""
    import torch
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> str:
    """The folder of a tiny Qwen2.5-VL of random weights."""
    import tiny_vlm
    return str(tiny_vlm.save(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="session")
def recipe(tiny):
    """Both stages on `tiny`."""
    from tiny_runs import recipe_for
    return recipe_for(tiny)


@pytest.fixture(scope="session")
def captions(photos):
    """Four photos with captions, as stage 1 trains on them."""
    from tiny_runs import caption_examples
    return caption_examples(photos)


@pytest.fixture(scope="session")
def questions(photos):
    """The same photos under two policies, as stage 2 asks about them."""
    from tiny_runs import question_examples
    return question_examples(photos)
