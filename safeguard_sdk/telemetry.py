"""ONNX Runtime tells Microsoft of the machine and of every model that it opens, unless it is told not to before it is
loaded: its official builds do so from 1.29 on, and keep an identifier of the machine in ~/.cache/Microsoft.

https://github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md
"""

from __future__ import annotations

import os
import sys
import warnings

OFF = "ORT_DISABLE_TELEMETRY"  # read once, when the runtime is loaded; processes that this one starts have it too


def turn_off() -> None:
    """For this process. Warns if ONNX Runtime was loaded before, without this."""
    if os.environ.get(OFF) == "1":
        return
    os.environ[OFF] = "1"
    if "onnxruntime" in sys.modules:
        sys.modules["onnxruntime"].disable_telemetry_events()  # of what follows; the first event may be on its way
        warnings.warn("onnxruntime was imported before safeguard_sdk; from version 1.29 on it has then begun to send "
                      f"telemetry to Microsoft. Import safeguard_sdk first, or set {OFF}=1 in the environment",
                      stacklevel=3)
