"""Fixtures for all tests: real photos out of installed packages, and the shared data where a checkout has it."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

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
