"""From a checkpoint to a small, verified bundle; run as `python -m export …` from a clone. Never part of the wheel."""

import safeguard_sdk  # noqa: F401, before ONNX Runtime, whose telemetry it turns off
