"""The eye of nano: a frozen EfficientNet-Lite2 whose features are computed once and kept.

Input is the whole photo squashed to 320 px (safeguard_sdk/image/pixels.py); a larger side than the 260 px of its
training sees more: top-1 on 1,719 ImageNet photos is 0.827 at 260, 0.845 at 320, 0.837 at 384.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from torch import nn

from safeguard_sdk.durable import open_durably
from safeguard_sdk.image import SquareGeometry, decode_image, to_pixel_values
from training.assets import efficientnet_lite2_file
from training.photos import Photo

GEOMETRY = SquareGeometry(side=320, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
CLASSES, CHANNELS = 1000, 1280
FEATURES = CLASSES + 2 * CHANNELS  # ImageNet logits, mean and maximum of the last feature map


class Eye(nn.Module):
    """(batch, 3, 320, 320) pixel values → (batch, FEATURES): ImageNet logits, mean-pooled and max-pooled channels."""

    def __init__(self) -> None:
        super().__init__()
        self.network = EfficientNet.from_pretrained(
            "efficientnet-lite2", weights_path=str(efficientnet_lite2_file()), image_size=GEOMETRY.side)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        feature_map = self.network.extract_features(pixel_values)    # (batch, 1280, 10, 10)
        mean, maximum = feature_map.mean((2, 3)), feature_map.amax((2, 3))
        return torch.cat([self.network._fc(mean), mean, maximum], 1)


def export_eye(path: Path) -> Path:
    """Write the eye as ONNX, batch free: running it in ONNX Runtime is six times as fast as in PyTorch on a CPU."""
    pixel_values = torch.zeros(2, 3, GEOMETRY.side, GEOMETRY.side)
    torch.onnx.export(Eye().eval(), (pixel_values,), path, dynamo=True, verbose=False, external_data=False,
                      input_names=["pixel_values"], output_names=["features"],
                      dynamic_shapes=({0: torch.export.Dim("batch")},))
    return path


def photo_features(photos: list[Photo], folder: Path, views: int) -> np.ndarray:
    """(photos, 1 + views, FEATURES) float16: the photo as it is, then `views` random crops of each, cached by hash."""
    cache = folder / f"features-{views}.npz"
    known: dict[str, np.ndarray] = dict(np.load(cache)) if cache.is_file() else {}
    missing = [photo for photo in photos if photo.sha256 not in known]
    if missing:
        session = onnxruntime.InferenceSession(export_eye(folder / "eye.onnx"), providers=["CPUExecutionProvider"])
        for count, photo in enumerate(missing, 1):
            known[photo.sha256] = _views(session, photo, views)
            if count % 500 == 0 or count == len(missing):
                print(f"features: {count} of {len(missing)} photos", flush=True)
            if count % 2000 == 0 or count == len(missing):
                with open_durably(cache) as file:  # a stop loses what came since the last time, and no more
                    np.savez(file, **known)
    return np.stack([known[photo.sha256] for photo in photos])


def _views(session: onnxruntime.InferenceSession, photo: Photo, views: int) -> np.ndarray:
    rgb = decode_image(photo.path)
    random = np.random.default_rng(int(photo.sha256[:8], 16))
    pictures = [rgb] + [_random_view(rgb, random) for _ in range(views)]
    pixel_values = np.stack([to_pixel_values(picture, GEOMETRY) for picture in pictures])
    return session.run(None, {"pixel_values": pixel_values})[0].astype(np.float16)


def _random_view(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A crop of 50–100 % of each side, mirrored half of the time, in other light and at times at a coarser scale."""
    height, width, _ = rgb.shape
    crop_h, crop_w = (max(8, int(side * random.uniform(0.5, 1.0))) for side in (height, width))
    top, left = random.integers(height - crop_h + 1), random.integers(width - crop_w + 1)
    view = rgb[top:top + crop_h, left:left + crop_w]
    view = view[:, ::-1] if random.random() < 0.5 else view
    if random.random() < 0.3:  # as from a small or badly compressed picture
        scale = random.uniform(0.25, 0.7)
        small = Image.fromarray(np.ascontiguousarray(view))
        view = np.asarray(small.resize((max(8, int(crop_w * scale)), max(8, int(crop_h * scale))), Image.BICUBIC))
    gain = random.uniform(0.7, 1.3) * random.uniform(0.93, 1.07, 3)
    return np.clip(view * gain, 0, 255).astype(np.uint8)
