"""NVIDIA GPUs through NVML, the library behind nvidia-smi (package nvidia-ml-py, with the driver of the card)."""

from __future__ import annotations

from contextlib import suppress
from types import ModuleType

from benchmarks.speed.power import MJ, Reading, Unreadable

THROTTLES = {  # bits of nvmlDeviceGetCurrentClocksEventReasons that mean slower than asked for; nvml.h
    0x4: "power cap", 0x8: "hardware slowdown", 0x20: "heat (driver)", 0x40: "heat (hardware)", 0x80: "power brake",
}
MIB = 1 << 20


class NvmlReader:
    """The first GPU. `nvml` is the module pynvml, or what plays its part."""

    pause = 0.1

    def __init__(self, nvml: ModuleType | None = None) -> None:
        self._nvml = _module() if nvml is None else nvml
        try:
            self._nvml.nvmlInit()
            self._gpu = self._nvml.nvmlDeviceGetHandleByIndex(0)
        except self._nvml.NVMLError as error:
            raise Unreadable(f"NVML: {error}") from error
        self.read()

    def read(self) -> Reading:
        watts = self._ask(self._nvml.nvmlDeviceGetPowerUsage)
        joules = self._ask(self._nvml.nvmlDeviceGetTotalEnergyConsumption)
        heat = self._ask(self._nvml.nvmlDeviceGetTemperature, self._nvml.NVML_TEMPERATURE_GPU)
        reasons = self._ask(self._nvml.nvmlDeviceGetCurrentClocksEventReasons)
        if watts is None and joules is None:
            raise Unreadable("NVML: this GPU tells neither its power nor its energy")
        return Reading(None if watts is None else watts / MJ, None if joules is None else joules / MJ,
                       heat, None if reasons is None else throttles(reasons))

    def memory_mib(self) -> int | None:
        """In use on the card, by all processes; None where the card does not say."""
        try:
            memory = self._ask(self._nvml.nvmlDeviceGetMemoryInfo)
        except Unreadable:
            return None
        return None if memory is None else round(memory.used / MIB)

    def close(self) -> None:
        with suppress(self._nvml.NVMLError):  # of a card that is lost there is nothing to give back
            self._nvml.nvmlShutdown()

    def _ask(self, question, *arguments):
        """None where a card or its driver cannot answer: counters of energy came with Volta. Raises Unreadable."""
        try:
            return question(self._gpu, *arguments)
        except (self._nvml.NVMLError_NotSupported, self._nvml.NVMLError_FunctionNotFound):
            return None
        except self._nvml.NVMLError as error:
            raise Unreadable(f"NVML: {error}") from error


def throttles(reasons: int) -> tuple[str, ...]:
    return tuple(name for bit, name in THROTTLES.items() if reasons & bit)


def describe(nvml: ModuleType | None = None) -> list[dict]:
    """Name, memory, driver, clocks and power limit of each GPU; none where NVML finds none."""
    try:
        nvml = _module() if nvml is None else nvml
    except Unreadable:
        return []
    try:
        nvml.nvmlInit()
        try:
            return [_facts(nvml, nvml.nvmlDeviceGetHandleByIndex(place)) for place in range(nvml.nvmlDeviceGetCount())]
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError:  # no driver, or a card that is lost
        return []


def _facts(nvml: ModuleType, gpu: object) -> dict:
    def ask(question, *arguments):
        try:
            return question(gpu, *arguments)
        except nvml.NVMLError:
            return None

    memory, limit = ask(nvml.nvmlDeviceGetMemoryInfo), ask(nvml.nvmlDeviceGetEnforcedPowerLimit)
    return {"name": ask(nvml.nvmlDeviceGetName), "driver": nvml.nvmlSystemGetDriverVersion(),
            "memory_mib": None if memory is None else round(memory.total / MIB),
            "power_limit_w": None if limit is None else limit / MJ,
            "clock_mhz": ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            "most_clock_mhz": ask(nvml.nvmlDeviceGetMaxClockInfo, nvml.NVML_CLOCK_SM)}


def _module() -> ModuleType:
    try:
        import pynvml
    except ImportError as error:
        raise Unreadable("nvidia-ml-py is not installed; it comes with the extra bench") from error
    return pynvml
