"""Whether an edit is minimal: the thing is gone and everything else is as it was.

A pixel counts as changed where its colour differs by more than a re-encoding would make it (CIE 1976 ΔE in Lab, after
a slight blur). The edit is what changed, with a margin, or what the editor was told to change. Outside of it the two
pictures are compared by structural similarity (Wang et al. 2004, as scikit-image has it): an editor that paints the
whole picture anew, as generative ones do, is found out there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.metrics import structural_similarity

COLOUR_CHANGE = 10.0    # ΔE; JPEG at quality 75 stays below it in nearly all pixels of a photo
BLUR = 1.5              # pixels, sigma: single noisy pixels are no edit
MARGIN = 0.03           # of the longer side, around what changed: soft borders belong to the edit
UNCHANGED = 0.001       # share of the pixels: below it nothing was edited
MAX_AREA = 0.6          # share of the pixels: above it, it is another picture
MAX_DISTANCE = 0.10     # 1 − SSIM outside the edit


@dataclass(frozen=True, slots=True)
class Change:
    """What an edit did to a picture."""

    area: float      # share of the pixels that changed, in [0, 1]
    distance: float  # 1 − mean SSIM outside the edit, from 0; 0 too where the edit leaves no outside

    @property
    def reason(self) -> str | None:
        """Why the edit is none to keep, in one word for programs; None if it is minimal."""
        if self.area < UNCHANGED:
            return "unchanged"
        if self.area > MAX_AREA:
            return "area"
        return "outside" if self.distance > MAX_DISTANCE else None

    @property
    def message(self) -> str:
        return {None: "minimal",
                "unchanged": f"{self.area:.2%} of the pixels changed, less than {UNCHANGED:.1%}; nothing was edited",
                "area": f"{self.area:.0%} of the pixels changed, more than {MAX_AREA:.0%}; it is another picture",
                "outside": f"outside the edit the picture differs by {self.distance:.2f} (1 - SSIM), more than "
                           f"{MAX_DISTANCE}"}[self.reason]


def change(before: np.ndarray, after: np.ndarray, edited: np.ndarray | None = None) -> Change:
    """Two (h, w, 3) uint8 pictures of one size, 7 pixels a side at least → what changed.

    edited   (h, w) bool, where an edit was allowed; None takes what changed, with a margin
    raises   ValueError if the sizes differ
    """
    if before.shape != after.shape:
        raise ValueError(f"the pictures are {before.shape} and {after.shape}, must have one size")
    changed = _differs(before, after)
    inside = changed if edited is None else edited
    outside = ndimage.distance_transform_edt(~inside) > MARGIN * max(before.shape) if inside.any() else ~inside
    _, similarity = structural_similarity(before, after, channel_axis=2, full=True)
    similarity = similarity.mean(axis=2)[outside]
    return Change(round(float(changed.mean()), 6), round(float(1 - similarity.mean()), 6) if outside.any() else 0.0)


def _differs(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(h, w) bool."""
    difference = ndimage.gaussian_filter(rgb2lab(after) - rgb2lab(before), (BLUR, BLUR, 0))
    return np.sqrt((difference ** 2).sum(axis=2)) > COLOUR_CHANGE
