"""Jetson: the command tegrastats, a line every so often. Which tokens a line has depends on the board and on L4T, so
each is looked up by its name, and what is missing is None."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from benchmarks.speed.power import MJ, Reading, Unreadable

INTERVAL_MS = 100
INPUTS = ("VDD_IN", "VIN_SYS_5V0", "POM_5V_IN")  # rails of the whole board: Orin Nano and NX, AGX, the old Nano
RAIL = re.compile(r"\b([A-Z][A-Z0-9_]+) (\d+)(?:mW)?/(\d+)(?:mW)?(?= |$)")
HEAT = re.compile(r"\b([A-Za-z]\w*)@(-?[\d.]+)C\b")
THERMAL = Path("/sys/class/thermal")


class TegrastatsReader:
    """Runs tegrastats until it is closed."""

    pause = 0.0

    def __init__(self) -> None:
        command = shutil.which("tegrastats")
        if command is None:
            raise Unreadable("no Jetson: there is no tegrastats")
        self._trip = passive_trip()
        self._process = subprocess.Popen([command, "--interval", str(INTERVAL_MS)], stdout=subprocess.PIPE, text=True)

    def read(self) -> Reading:
        line = self._process.stdout.readline()
        if not line:
            raise Unreadable("tegrastats has ended")
        return parse(line, self._trip)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._process.stdout.close()


def parse(line: str, trip: float | None = None) -> Reading:
    """One line of tegrastats.

    trip  °C from which the kernel holds clocks down; without it nothing is said of throttling
    """
    rails = {name: int(now) / MJ for name, now, _ in RAIL.findall(line)}
    heat = [float(degrees) for _, degrees in HEAT.findall(line)]
    watts = next((rails[name] for name in INPUTS if name in rails), None)
    hottest = max(heat, default=None)
    throttled = None if hottest is None or trip is None else ("heat",) if hottest >= trip else ()
    return Reading(watts, None, hottest, throttled)


def passive_trip(folder: Path = THERMAL) -> float | None:
    """°C of the lowest trip point of this board at which Linux cools by slowing down; None if it names none."""
    passive = [kind for kind in folder.glob("thermal_zone*/trip_point_*_type")
               if kind.read_text(encoding="ascii").strip() == "passive"]
    degrees = [kind.with_name(kind.name.removesuffix("type") + "temp") for kind in passive]
    return min((int(file.read_text(encoding="ascii")) / 1000 for file in degrees), default=None)
