"""The file beside a graph that holds its large tensors, written one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper
from onnx.external_data_helper import set_external_data

from export.quantize import packed

INLINE, ALIGNED = 1024, 4096  # bytes: smaller tensors stay in the graph; larger ones start on a page


class Blob:
    """What `path` is to hold; use it in a with statement."""

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, open(path, "wb")  # noqa: SIM115, closed by __exit__

    def add(self, name: str, values: np.ndarray) -> TensorProto:
        """Write a tensor, or keep it in the graph if it is small; returns the initializer. ONNX packs values of the
        type ml_dtypes.int4 two a byte, the first in the lower half."""
        kind, shape, values = helper.np_dtype_to_tensor_dtype(values.dtype), values.shape, np.ascontiguousarray(values)
        if kind == TensorProto.INT4:
            values = packed(values.reshape(-1).view(np.uint8) & 15, 4)
        tensor = TensorProto(name=name, data_type=kind, dims=shape)
        if values.nbytes < INLINE:
            tensor.raw_data = values.tobytes()
            return tensor
        self._file.write(bytes(-self._file.tell() % ALIGNED))
        tensor.raw_data = b""
        set_external_data(tensor, self.path.name, self._file.tell(), values.nbytes)
        tensor.ClearField("raw_data")
        self._file.write(values.reshape(-1).view(np.uint8).data)
        return tensor

    def __enter__(self) -> Blob:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()
