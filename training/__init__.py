"""From photos and policies to checkpoints; run as `python -m training …` from a clone. Never part of the wheel."""

import safeguard_sdk  # noqa: F401, before ONNX Runtime, whose telemetry it turns off
