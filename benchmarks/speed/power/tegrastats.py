"""Jetson: the command tegrastats, a line every so often. Which tokens a line has depends on the board and on L4T, so
each is looked up by its name, and what is missing is None."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Iterable
from pathlib import Path

from benchmarks.speed.power import MJ, Reading, Unreadable

INTERVAL_MS = 100
WHOLE = ("VDD_IN", "POM_5V_IN", "VIN")  # one rail of everything: Orin Nano and NX; the old Nano; newer L4T of Thor
XAVIER = ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V")  # AGX Xavier: these together
SYSTEM, BESIDE = "VIN_SYS_5V0", "VDD_"  # AGX Orin and Thor: it, and what begins so (VDDQ_… is fed by it)
RAIL = re.compile(r"\b([A-Z][A-Z0-9_]+) (-?\d+)(?:mW)?/(-?\d+)(?:mW)?(?= |$)")
HEAT = re.compile(r"\b([A-Za-z][\w-]*)@(-?\d+(?:\.\d+)?)C\b")
ASLEEP = -250  # °C and below: the -256 of a GPU without power
THERMAL = Path("/sys/class/thermal")


class TegrastatsReader:
    """Runs tegrastats until it is closed. Its lines are always read, so that none waits for the next measurement."""

    pause = 0.0

    def __init__(self) -> None:
        command = shutil.which("tegrastats")
        if command is None:
            raise Unreadable("no Jetson: there is no tegrastats")
        self._trip = passive_trip()
        self._news = threading.Condition()
        self._lines, self._latest, self._ended = 0, "", False
        self._process = subprocess.Popen([command, "--interval", str(INTERVAL_MS)], stdout=subprocess.PIPE, text=True)
        self._follower = threading.Thread(target=self._follow, daemon=True)
        self._follower.start()

    def read(self) -> Reading:
        """What the next line says."""
        with self._news:
            before = self._lines
            self._news.wait_for(lambda: self._lines > before or self._ended)
            if self._lines == before:
                raise Unreadable("tegrastats has ended")
            line = self._latest
        return parse(line, self._trip)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._follower.join()
        self._process.stdout.close()

    def _follow(self) -> None:
        for line in self._process.stdout:
            with self._news:
                self._lines, self._latest = self._lines + 1, line
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()


def parse(line: str, trip: float | None = None) -> Reading:
    """One line of tegrastats.

    trip  °C from which the kernel holds clocks down; without it nothing is said of throttling
    """
    mw = {name: int(now) for name, now, _ in RAIL.findall(line)}
    rails = input_rails(mw)
    heat = [float(degrees) for name, degrees in HEAT.findall(line)
            if not name.upper().startswith("PMIC")]  # a constant of 50 or 100, not a sensor
    hottest = max((degrees for degrees in heat if degrees > ASLEEP), default=None)
    throttled = None if hottest is None or trip is None else ("heat",) if hottest >= trip else ()
    return Reading(sum(mw[name] for name in rails) / MJ if rails else None, None, hottest, throttled, rails)


def input_rails(names: Iterable[str]) -> tuple[str, ...]:
    """Those that the whole board takes in together; none where the line does not tell all of them."""
    there = tuple(names)
    for name in WHOLE:
        if name in there:
            return (name,)
    if SYSTEM in there:
        return tuple(name for name in there if name == SYSTEM or name.startswith(BESIDE))
    return XAVIER if set(XAVIER) <= set(there) else ()


def passive_trip(folder: Path = THERMAL) -> float | None:
    """°C of the lowest trip point of this board at which Linux cools by slowing down; None if it names none. Those that
    cannot be read are passed over."""
    passive = [kind for kind in folder.glob("thermal_zone*/trip_point_*_type") if _text(kind) == "passive"]
    degrees = [_text(kind.with_name(kind.name.removesuffix("type") + "temp")) for kind in passive]
    return min((int(text) / 1000 for text in degrees if text.removeprefix("-").isdecimal()), default=None)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
