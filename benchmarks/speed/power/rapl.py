"""The processor's own energy counters (RAPL), as Linux shows them under /sys/class/powercap: sockets without memory,
fans and losses. Most systems let root alone read them (CVE-2020-8694)."""

from __future__ import annotations

from pathlib import Path

from benchmarks.speed.power import Reading, Unreadable

POWERCAP = Path("/sys/class/powercap")
UJ = 1e6  # in a joule


class RaplReader:
    """All sockets together."""

    pause = 0.1

    def __init__(self, folder: Path = POWERCAP) -> None:
        self._sockets = [zone for zone in sorted(folder.glob("*-rapl:*")) if _name(zone).startswith("package")]
        if not self._sockets:
            raise Unreadable(f"no RAPL: {folder} has no counter of a processor")
        self._ranges = [_number(zone / "max_energy_range_uj") for zone in self._sockets]
        self._last = self._counters()
        self._turned = 0

    def read(self) -> Reading:
        now = self._counters()
        for before, after, whole in zip(self._last, now, self._ranges, strict=True):
            self._turned += whole if after < before else 0  # the counter has begun anew
        self._last = now
        return Reading(joules=(sum(now) + self._turned) / UJ)

    def close(self) -> None:
        pass

    def _counters(self) -> list[int]:
        return [_number(zone / "energy_uj") for zone in self._sockets]


def _name(zone: Path) -> str:
    return _text(zone / "name").strip() if (zone / "name").is_file() else ""


def _number(file: Path) -> int:
    text = _text(file).strip()
    if not text.isdecimal():
        raise Unreadable(f"{file}: holds {text!r:.40}, must be a whole number; the kernel gives no energy here")
    return int(text)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise Unreadable(f"{file}: {error.strerror or error}; let this user read it, or measure as root") from error
