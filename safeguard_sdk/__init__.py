"""safeguard: an offline image guard. Write a policy in plain words; a guard says whether a photo breaks it.

    from safeguard_sdk import Guard, Policy

    guard = Guard(Policy.load("shop.yaml"))
    verdict = guard.check("upload.jpg")
"""

from safeguard_sdk import telemetry
from safeguard_sdk.bundle import Bundle
from safeguard_sdk.engine import Engine
from safeguard_sdk.errors import (
    BundleError,
    EngineError,
    ImageError,
    PolicyError,
    SafeguardError,
    ScanError,
    ServeError,
    VerdictError,
)
from safeguard_sdk.guard import Guard
from safeguard_sdk.policy import Policy
from safeguard_sdk.record import Record
from safeguard_sdk.verdict import Verdict

telemetry.turn_off()  # before anything can load ONNX Runtime

__version__ = "0.1.0"
__all__ = ["Bundle", "BundleError", "Engine", "EngineError", "Guard", "ImageError", "Policy", "PolicyError", "Record",
           "SafeguardError", "ScanError", "ServeError", "Verdict", "VerdictError"]
