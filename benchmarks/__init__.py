"""Speed and quality, measured; run from a clone, never part of the wheel."""

import safeguard_sdk  # noqa: F401, before ONNX Runtime, whose telemetry it turns off
