"""Who edits: EDITORS by name. An editor is given as NAME, NAME:MODEL or NAME:MODEL@URL.

    folder:edits/                                                       edits made elsewhere: edits/x.png for x.jpg
    inpaint                                                             OpenCV over the boxes of the photo; no model
    diffusers:Qwen/Qwen-Image-Edit                                      a model of diffusers, on this machine
    openai-images:gpt-image-1@https://api.openai.com/v1                 and what speaks the same language
    gemini:gemini-2.5-flash-image@https://generativelanguage.googleapis.com/v1beta
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from benchmarks.errors import BenchmarkError
from safeguard_sdk.errors import ImageError
from safeguard_sdk.image import decode_image

Box = tuple[float, float, float, float]  # cx, cy, w, h, relative to the photo
BOX_MARGIN = 0.02      # of the longer side: boxes are drawn tight, and shadows stay outside
INPAINT_RADIUS = 5.0   # pixels that OpenCV looks around


@dataclass(frozen=True, slots=True)
class Task:
    """One photo and what shall be done to it."""

    name: str                # of the pair: "x"
    photo: Path
    instruction: str         # "Remove the gun."
    boxes: tuple[Box, ...]   # of what is to go; may be empty where the editor reads the instruction
    category: str
    licence: str             # of the photo; kept with the pair
    source: str              # where it comes from; likewise


class EditError(Exception):
    """One photo that was not edited; others may be. `kind` is a stable word for programs: "missing", "no_boxes",
    "filtered", "malformed", "overloaded", "server_error", "timeout", "rejected_request"."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class Editor(Protocol):
    def edit(self, photo: Image.Image, task: Task) -> Image.Image:
        """The edited photo, of any size. Raises EditError for this one, BenchmarkError if none would be edited."""

    def close(self) -> None: ...


def open_editor(spec: str, seed: int) -> Editor:
    """An editor by its name. Raises BenchmarkError naming those there are, or what this one lacks."""
    name, _, what = spec.partition(":")
    if name not in EDITORS:
        raise BenchmarkError(f"no editor {name!r} (there are: {', '.join(EDITORS)}); see benchmarks/safeeditbench/"
                             "editors.py")
    return EDITORS[name](what, seed)


def mask_of(boxes: tuple[Box, ...], height: int, width: int) -> np.ndarray:
    """(h, w) bool: inside any of the boxes, which are grown by a margin."""
    mask = np.zeros((height, width), bool)
    margin = BOX_MARGIN * max(height, width)
    for cx, cy, w, h in boxes:
        left, right = (cx - w / 2) * width - margin, (cx + w / 2) * width + margin
        top, bottom = (cy - h / 2) * height - margin, (cy + h / 2) * height + margin
        mask[max(0, round(top)):max(0, round(bottom)), max(0, round(left)):max(0, round(right))] = True
    return mask


class FolderEditor:
    """Edits made elsewhere, named like their photos; any image format."""

    def __init__(self, folder: Path) -> None:
        self._files = {path.stem: path for path in sorted(folder.iterdir()) if path.is_file()}

    def edit(self, photo: Image.Image, task: Task) -> Image.Image:
        path = self._files.get(task.name) or self._files.get(f"{task.name}_edited")
        if path is None:
            raise EditError(f"no edit named {task.name} or {task.name}_edited", "missing")
        try:
            return Image.fromarray(decode_image(path))
        except ImageError as error:
            raise EditError(str(error), "malformed") from error

    def close(self) -> None:
        pass


class InpaintEditor:
    """Fills the boxes from their borders (Telea 2004). It leaves a smear where the background has texture, which the
    eye finds; what was in the box is gone, though."""

    def edit(self, photo: Image.Image, task: Task) -> Image.Image:
        import cv2
        if not task.boxes:
            raise EditError("has no boxes; this editor fills boxes and reads no instruction", "no_boxes")
        mask = mask_of(task.boxes, photo.height, photo.width)
        if mask.all():
            raise EditError("the boxes cover the whole photo; nothing is left to fill them from", "no_boxes")
        return Image.fromarray(cv2.inpaint(np.asarray(photo), mask.astype(np.uint8), INPAINT_RADIUS, cv2.INPAINT_TELEA))

    def close(self) -> None:
        pass


class DiffusersEditor:
    """An image-editing pipeline of diffusers, such as Qwen-Image-Edit or FLUX.1-Kontext: photo and instruction in."""

    def __init__(self, model: str, seed: int) -> None:
        try:
            import diffusers
            import torch
        except ImportError as error:
            raise BenchmarkError(f"the editor diffusers needs the packages diffusers and torch ({error}); install "
                                 "them: pip install 'safeguard[edit]'") from error
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._pipeline = diffusers.DiffusionPipeline.from_pretrained(
                model, dtype=torch.bfloat16 if device == "cuda" else torch.float32).to(device)
        except (OSError, ValueError) as error:
            raise BenchmarkError(f"{model}: cannot be loaded by diffusers ({' '.join(str(error).split())[:200]}); name "
                                 "the folder of a pipeline or its name on the Hugging Face hub") from error
        self._generator, self._seed = torch.Generator(device), seed

    def edit(self, photo: Image.Image, task: Task) -> Image.Image:
        # The size of the photo in multiples of 16, which the latents of both families want; a resize undoes it.
        width, height = (max(16, round(side / 16) * 16) for side in photo.size)
        generator = self._generator.manual_seed(self._seed)  # anew for each: a photo's edit is the same in any order
        # Without a negative prompt Qwen-Image-Edit leaves its guidance out; Kontext's is off by default all the same.
        return self._pipeline(image=photo, prompt=task.instruction, negative_prompt=" ", width=width, height=height,
                              generator=generator).images[0]

    def close(self) -> None:
        del self._pipeline


def _open_folder(folder: str, seed: int) -> Editor:
    if not folder or not Path(folder).is_dir():
        raise BenchmarkError(f"folder:{folder}: no such folder; give folder:PATH, with an edit for each photo")
    return FolderEditor(Path(folder))


def _open_inpaint(what: str, seed: int) -> Editor:
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        raise BenchmarkError(f"the editor inpaint needs OpenCV ({error}); install it: pip install "
                             "'safeguard[bench]'") from error
    return InpaintEditor()


def _open_diffusers(model: str, seed: int) -> Editor:
    if not model:
        raise BenchmarkError("diffusers: which model? For example diffusers:Qwen/Qwen-Image-Edit")
    return DiffusersEditor(model, seed)


def _open_openai_images(where: str, seed: int) -> Editor:
    from benchmarks.safeeditbench.endpoints import OpenAIImagesEditor
    return OpenAIImagesEditor(*_model_and_url("openai-images", where))


def _open_gemini(where: str, seed: int) -> Editor:
    from benchmarks.safeeditbench.endpoints import GeminiEditor
    return GeminiEditor(*_model_and_url("gemini", where))


def _model_and_url(name: str, where: str) -> tuple[str, str]:
    model, _, url = where.partition("@")
    if not (model and url.startswith(("http://", "https://"))):
        raise BenchmarkError(f"{name}:{where}: give {name}:MODEL@URL, for instance {name}:my-model@"
                             "http://127.0.0.1:8000/v1")
    return model, url


# (what stands behind the name, seed) → Editor
EDITORS: dict[str, Callable[[str, int], Editor]] = {
    "folder": _open_folder,
    "inpaint": _open_inpaint,
    "diffusers": _open_diffusers,
    "openai-images": _open_openai_images,
    "gemini": _open_gemini,
}
