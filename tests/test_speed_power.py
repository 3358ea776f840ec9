"""The power readers on recorded output, and what a Meter makes of it."""

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.speed.power import Meter, Reading, Unreadable, open_readers, summarise
from benchmarks.speed.power.nvml import NvmlReader, describe, throttles
from benchmarks.speed.power.rapl import RaplReader
from benchmarks.speed.power.tegrastats import TegrastatsReader, parse, passive_trip

# As parsers of others have recorded them: an AGX Orin, an Orin Nano, a Thor.
ORIN = ("RAM 3456/15388MB (lfb 20x4MB) SWAP 0/7694MB (cached 0MB) CPU [12%@1420,8%@1420,off,off,5%@1420,3%@1420] "
        "EMC_FREQ 24%@2133 GR3D_FREQ 0%@[306] cpu@52.5C soc2@50C soc0@50C gpu@51C tj@53.5C soc1@50C "
        "VDD_IN 5000mW/5000mW")
NANO = ("RAM 2690/6854MB (lfb 6x1MB) SWAP 479/3427MB (cached 3MB) CPU [3%@1904,7%@1906,1%@1905,0%@1907,off,off] "
        "EMC_FREQ 0%@1600 GR3D_FREQ 0%@[510] VIC_FREQ 601 APE 150 AUX@39C CPU@39.5C AO@37.5C GPU@37.5C PMIC@50C "
        "VDD_IN 5079mW/5079mW VDD_CPU_GPU_CV 696mW/696mW VDD_SOC 1104mW/1104mW")
THOR = ("05-17-2026 10:00:32 RAM 4208/125773MB (lfb 31x4MB) SWAP 0/2048MB (cached 0MB) CPU [1%@972,0%@972] "
        "EMC_FREQ 0%@665 GR3D_FREQ @[0,0,0] NVENC0_FREQ @0 VIC off OFA_FREQ @0 PVA0_FREQ off APE 300 cpu@34.468C "
        "tj@34.5C soc012@33.781C VDD_GPU 0mW/0mW VDD_CPU_SOC_MSS 4165mW/4165mW VIN_SYS_5V0 4126mW/4126mW")
OLD_NANO = ("RAM 1203/3956MB (lfb 4x4MB) CPU [20%@1479] GR3D_FREQ 0%@114 PLL@31C CPU@34C POM_5V_IN 2430/2501 "
            "POM_5V_CPU 405/410")


@pytest.mark.parametrize("line, watts, celsius", [
    (ORIN, 5.0, 53.5), (NANO, 5.079, 50.0), (THOR, 4.126, 34.5), (OLD_NANO, 2.43, 34.0),
    ("RAM 1/2MB CPU [off]", None, None),  # a board that says neither
])
def test_a_line_of_tegrastats_gives_the_whole_boards_power_and_its_hottest_sensor(line, watts, celsius):
    found = parse(line)
    assert (found.watts, found.celsius, found.throttled) == (watts, celsius, None)


@pytest.mark.parametrize("trip, throttled", [(53.6, ()), (53.5, ("heat",))])
def test_a_jetson_is_throttled_from_the_passive_trip_point_of_its_kernel_on(trip, throttled):
    assert parse(ORIN, trip).throttled == throttled


def test_the_lowest_passive_trip_point_counts(tmp_path):
    assert passive_trip(tmp_path) is None
    for zone, (kind, degrees) in enumerate([("critical", 104500), ("passive", 99000), ("passive", 95000),
                                            ("active", 51000)]):
        folder = tmp_path / f"thermal_zone{zone}"
        folder.mkdir()
        (folder / "trip_point_0_type").write_text(f"{kind}\n")
        (folder / "trip_point_0_temp").write_text(f"{degrees}\n")
    assert passive_trip(tmp_path) == 95.0


@pytest.mark.skipif(os.name == "nt", reason="the recording is played by a shell script")
def test_tegrastats_is_run_and_read_line_by_line(tmp_path, monkeypatch):
    player = tmp_path / "tegrastats"
    player.write_text(f"#!{sys.executable}\nprint({ORIN!r}, flush=True)\nprint({NANO!r}, flush=True)\n")
    player.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    reader = TegrastatsReader()
    assert [reader.read().watts, reader.read().watts] == [5.0, 5.079]
    with pytest.raises(Unreadable, match="tegrastats has ended"):
        reader.read()
    reader.close()


# NVML

class NotSupported(Exception):
    pass


def recorded_nvml(**changes: object) -> SimpleNamespace:
    """What an NVML says of one GPU; a value that is an error is raised."""
    said = {"nvmlDeviceGetPowerUsage": 61_250, "nvmlDeviceGetTotalEnergyConsumption": 9_000_500,
            "nvmlDeviceGetTemperature": 71, "nvmlDeviceGetCurrentClocksEventReasons": 0x24,
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=3 << 30, total=24 << 30), "nvmlDeviceGetName": "NVIDIA L4",
            "nvmlDeviceGetEnforcedPowerLimit": 72_000, "nvmlDeviceGetClockInfo": 1590,
            "nvmlDeviceGetMaxClockInfo": 2040, "nvmlInit": None, "nvmlShutdown": None, "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetHandleByIndex": "gpu", "nvmlSystemGetDriverVersion": "580.65.06"} | changes

    def play(value: object):
        def answer(*_: object) -> object:
            if isinstance(value, Exception):
                raise value
            return value
        return answer

    return SimpleNamespace(NVMLError=NotSupported, NVMLError_NotSupported=NotSupported, NVML_TEMPERATURE_GPU=0,
                           NVML_CLOCK_SM=1, **{name: play(value) for name, value in said.items()})


def test_nvml_gives_watts_joules_heat_and_why_clocks_are_held_down():
    reader = NvmlReader(recorded_nvml())
    assert reader.read() == Reading(61.25, 9000.5, 71, ("power cap", "heat (driver)"))
    assert reader.memory_mib() == 3072


def test_a_card_without_an_energy_counter_gives_watts():
    reader = NvmlReader(recorded_nvml(nvmlDeviceGetTotalEnergyConsumption=NotSupported("Not Supported")))
    assert (reader.read().joules, reader.read().watts) == (None, 61.25)


@pytest.mark.parametrize("changes, why", [
    ({"nvmlInit": NotSupported("Driver Not Loaded")}, "Driver Not Loaded"),
    ({"nvmlDeviceGetPowerUsage": NotSupported(), "nvmlDeviceGetTotalEnergyConsumption": NotSupported()}, "neither"),
])
def test_a_gpu_that_tells_nothing_is_no_reader(changes, why):
    with pytest.raises(Unreadable, match=why):
        NvmlReader(recorded_nvml(**changes))


def test_the_gpu_is_described_and_what_it_does_not_say_is_none():
    assert describe(recorded_nvml(nvmlDeviceGetClockInfo=NotSupported())) == [{
        "name": "NVIDIA L4", "driver": "580.65.06", "memory_mib": 24576, "power_limit_w": 72.0, "clock_mhz": None,
        "most_clock_mhz": 2040}]
    assert describe(recorded_nvml(nvmlInit=NotSupported("Driver Not Loaded"))) == []


def test_an_idle_gpu_and_one_at_its_users_clocks_are_not_throttled():
    assert throttles(0x1 | 0x2) == ()


# RAPL

def powercap(folder: Path, uj: dict[str, int]) -> Path:
    """Zones as Linux shows them, with max_energy_range_uj of a Xeon."""
    for zone, (place, name) in {"package-0": ("intel-rapl:0", "package-0"), "core": ("intel-rapl:0:0", "core"),
                                "package-1": ("intel-rapl:1", "package-1"), "psys": ("intel-rapl:2", "psys")}.items():
        (folder / place).mkdir(exist_ok=True)
        (folder / place / "name").write_text(f"{name}\n")
        (folder / place / "energy_uj").write_text(f"{uj[zone]}\n")
        (folder / place / "max_energy_range_uj").write_text("262143328850\n")
    return folder


def test_rapl_sums_the_sockets_and_nothing_twice(tmp_path):
    folder = powercap(tmp_path, {"package-0": 1_000_000, "core": 700_000, "package-1": 2_000_000, "psys": 9_000_000})
    assert RaplReader(folder).read() == Reading(joules=3.0)


def test_a_counter_of_rapl_that_begins_anew_goes_on(tmp_path):
    still = {"core": 0, "package-1": 0, "psys": 0}
    reader = RaplReader(powercap(tmp_path, {"package-0": 262_143_000_000} | still))
    before = reader.read().joules
    powercap(tmp_path, {"package-0": 1_671_150} | still)
    assert reader.read().joules - before == pytest.approx(2.0)
    powercap(tmp_path, {"package-0": 2_671_150} | still)
    assert reader.read().joules - before == pytest.approx(3.0)


def test_where_there_is_no_rapl_the_reader_says_so(tmp_path):
    with pytest.raises(Unreadable, match="no RAPL"):
        RaplReader(tmp_path)


# From readings to energy

def test_energy_is_the_difference_of_a_counter():
    found = summarise([(0.0, Reading(10, 100.0, 50)), (1.0, Reading(99, 130.0, 61)), (2.0, Reading(10, 140.0, 55))], 80)
    assert (found["joules"], found["watts"], found["mj_per_image"], found["celsius"]) == (40.0, 20.0, 500.0, 61)
    assert found["throttled"] is None  # nobody said


def test_without_a_counter_it_is_the_area_under_the_watts():
    taken = [(0.0, Reading(10.0, throttled=())), (1.0, Reading(20.0, throttled=("heat",))), (3.0, Reading(20.0))]
    found = summarise(taken, 0)
    assert (found["joules"], found["watts"]) == (55.0, 18.33)
    assert (found["mj_per_image"], found["throttled"]) == (None, ["heat"])


class Plays:
    """A reader of recorded readings, which ends as a source may end."""

    pause = 0.0

    def __init__(self, *readings: Reading) -> None:
        self.left = list(readings)

    def read(self) -> Reading:
        if not self.left:
            raise Unreadable("the source has ended")
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]

    def close(self) -> None:
        pass


def test_a_meter_reads_before_and_after_what_it_measures():
    reader = Plays(Reading(joules=5.0), Reading(joules=8.0))
    with Meter({"board": reader}) as meter:
        pass
    assert meter.energy(3)["board"]["mj_per_image"] in (0.0, 1000.0)  # one reading, or two
    assert meter.energy(3)["board"]["reader_cpu_s"] >= 0


def test_a_source_that_ends_is_reported_and_is_no_energy_of_zero():
    with Meter({"board": Plays()}) as meter:
        pass
    assert meter.energy(3) == {"board": {"failed": "the source has ended"}}


def test_every_reader_is_there_or_says_why_not():
    readers, absent = open_readers()
    for reader in readers.values():
        reader.close()
    assert readers.keys() | absent.keys() == {"nvml", "tegrastats", "rapl"}
    assert all(absent.values())
    if shutil.which("tegrastats") is None:
        assert "no Jetson" in absent["tegrastats"]
