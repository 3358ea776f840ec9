"""What goes from stage to stage of a scan's pipeline."""

from __future__ import annotations

from dataclasses import dataclass

from safeguard_sdk.engine import ImageEmbedding
from safeguard_sdk.image import ModelInput
from safeguard_sdk.scan.decoding import Prepared
from safeguard_sdk.scan.inputs import shape_of, values_of
from safeguard_sdk.scan.item import Item
from safeguard_sdk.scan.ledger import Outcome
from safeguard_sdk.scan.pdq import Pdq

FRAME_BYTES = 16 << 20  # of what awaits the engine that weigh as much as one more frame


@dataclass(slots=True)
class Job:
    """An item on its way."""

    item: Item
    identity: bytes
    sha256: str | None = None
    size: int | None = None   # bytes


@dataclass(slots=True)
class Ready:
    """A job whose image awaits the engine: prepared, or encoded by an earlier scan."""

    job: Job
    frames: tuple[int, ...]
    nbytes: int                                     # of what follows
    prepared: Prepared | None = None
    embeddings: list[ImageEmbedding] | None = None
    pdq: Pdq | None = None

    @property
    def weight(self) -> int:
        return len(self.frames) + self.nbytes // FRAME_BYTES

    @property
    def shape(self) -> tuple[int, ...]:
        """Images of one shape run together; what is encoded already has none."""
        return () if self.prepared is None else shape_of(self.prepared.inputs[0])


@dataclass(slots=True)
class Settled:
    """A job with its outcome, which the ledger learns now if it is new and of a content that could be read."""

    job: Job
    outcome: Outcome
    is_new: bool
    is_duplicate: bool = False
    picture: tuple[ModelInput, tuple[int, int]] | None = None  # of the frame that decided, and its size
    embeddings: tuple[bytes, ...] = ()                         # packed, of each of the frames
    frames: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        """Of the picture and the embeddings."""
        picture = 0 if self.picture is None else values_of(self.picture[0]).nbytes
        return picture + sum(map(len, self.embeddings))
