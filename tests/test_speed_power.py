"""The power readers on recorded output, and what a Meter makes of it."""

import os
import shutil
import sys
import time
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
NEW_THOR = f"{THOR} VIN 21500mW/21500mW"
AGX_ORIN = ("RAM 2500/62780MB (lfb 14000x4MB) CPU [0%@729] GR3D_FREQ 0%@[0,0] cpu@48.0C tboard@36C gpu@-256C tj@49C "
            "VDD_GPU_SOC 2400mW/2400mW VDD_CPU_CV 800mW/800mW VIN_SYS_5V0 3400mW/3400mW VDDQ_VDD2_1V8AO 400mW/400mW")
XAVIER = ("RAM 1000/31919MB (lfb 7000x4MB) CPU [2%@1190] AO@32C GPU@32.5C CPU@33.5C PMIC@100C AUX@31.5C Tdiode@36.25C "
          "GPU 310/310 CPU 465/500 SOC 1550/1550 CV 0/0 VDDRQ 155/155 SYS5V 1520/1520")
OLD_NANO = ("RAM 1203/3956MB (lfb 4x4MB) CPU [20%@1479] GR3D_FREQ 0%@114 PLL@31C CPU@34C POM_5V_IN 2430/2501 "
            "POM_5V_CPU 405/410")


@pytest.mark.parametrize("line, watts, celsius", [
    (ORIN, 5.0, 53.5), (NANO, 5.079, 39.5), (THOR, 8.291, 34.5), (NEW_THOR, 21.5, 34.5), (AGX_ORIN, 6.6, 49.0),
    (XAVIER, 4.0, 36.25), (OLD_NANO, 2.43, 34.0),
    ("RAM 1/2MB CPU [off]", None, None),  # a board that says neither
    ("CPU 465/500 gpu@1.2.3C", None, None),  # one rail of several; no number
])
def test_a_line_of_tegrastats_gives_the_whole_boards_power_and_its_hottest_sensor(line, watts, celsius):
    found = parse(line)
    assert (found.watts, found.celsius, found.throttled) == (watts, celsius, None)


@pytest.mark.parametrize("line, rails", [
    (NANO, ("VDD_IN",)), (OLD_NANO, ("POM_5V_IN",)), (NEW_THOR, ("VIN",)),
    (THOR, ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0")), (AGX_ORIN, ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")),
    (XAVIER, ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V")), ("VDD_GPU_SOC 2400mW/2400mW", ()),
])
def test_the_rails_whose_sum_is_the_whole_boards_power_are_named_in_the_results(line, rails):
    assert summarise([(0.0, parse(line)), (1.0, parse(line))], 1)["rails"] == list(rails)


def test_a_rail_whose_meter_reads_below_nothing_is_still_summed():
    assert parse("VDD_GPU -392mW/-392mW VDD_CPU_SOC_MSS 3924mW/3924mW VIN_SYS_5V0 4000mW/4000mW").watts == 7.532


@pytest.mark.parametrize("sensor", ["PMIC@100C", "PMIC-Die@100C", "gpu@-256C"])
def test_what_is_no_measured_temperature_is_no_heat(sensor):
    assert parse(sensor).celsius is None


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


@pytest.mark.parametrize("file, content", [("trip_point_0_type", b""), ("trip_point_0_temp", b""),
                                           ("trip_point_0_temp", b"\xff"), ("trip_point_0_temp", None)])
def test_a_trip_point_that_cannot_be_read_is_passed_over(tmp_path, file, content):
    for zone, degrees in (("thermal_zone0", 90000), ("thermal_zone1", 95000)):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "trip_point_0_type").write_text("passive\n")
        (tmp_path / zone / "trip_point_0_temp").write_text(f"{degrees}\n")
    broken = tmp_path / "thermal_zone0" / file
    broken.unlink()
    if content is not None:
        broken.write_bytes(content)
    assert passive_trip(tmp_path) == 95.0


PLAYER = f"""#!{sys.executable}
import time
from pathlib import Path
stage = Path(__file__).with_name("stage")
for name, line in (("orin", {ORIN!r}), ("nano", {NANO!r})):
    while stage.read_text() == name:
        print(line, flush=True)
        time.sleep(0.01)
"""


@pytest.fixture
def stage(tmp_path, monkeypatch) -> Path:
    """A file that names the board whose lines tegrastats prints from now on; any other word ends it."""
    stage = tmp_path / "stage"
    stage.write_text("orin")
    player = tmp_path / "tegrastats"
    player.write_text(PLAYER)
    player.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return stage


def turn_to(stage: Path, name: str) -> None:
    stage.with_name("next").write_text(name)
    stage.with_name("next").replace(stage)
    time.sleep(0.3)  # until all that was printed before is behind


@pytest.mark.skipif(os.name == "nt", reason="the recording is played by a script")
def test_tegrastats_is_read_until_it_ends(stage):
    reader = TegrastatsReader()
    assert reader.read().watts == 5.0
    turn_to(stage, "nothing more")
    with pytest.raises(Unreadable, match="tegrastats has ended"):
        reader.read()
    reader.close()


@pytest.mark.skipif(os.name == "nt", reason="the recording is played by a script")
def test_what_tegrastats_said_between_two_measurements_is_of_neither(stage):
    reader = TegrastatsReader()
    assert reader.read().watts == 5.0
    time.sleep(0.3)  # nobody asks, some thirty lines come
    turn_to(stage, "nano")
    assert reader.read().watts == 5.079
    reader.close()


# NVML

class NVMLError(Exception):
    pass


class NotSupported(NVMLError):
    pass


class FunctionNotFound(NVMLError):
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

    return SimpleNamespace(NVMLError=NVMLError, NVMLError_NotSupported=NotSupported,
                           NVMLError_FunctionNotFound=FunctionNotFound, NVML_TEMPERATURE_GPU=0, NVML_CLOCK_SM=1,
                           **{name: play(value) for name, value in said.items()})


def test_nvml_gives_watts_joules_heat_and_why_clocks_are_held_down():
    reader = NvmlReader(recorded_nvml())
    assert reader.read() == Reading(61.25, 9000.5, 71, ("power cap", "heat (driver)"))
    assert reader.memory_mib() == 3072


def test_a_card_without_an_energy_counter_gives_watts():
    reader = NvmlReader(recorded_nvml(nvmlDeviceGetTotalEnergyConsumption=NotSupported("Not Supported")))
    assert (reader.read().joules, reader.read().watts) == (None, 61.25)


@pytest.mark.parametrize("error", [NotSupported("Not Supported"), FunctionNotFound("Function Not Found")])
def test_a_card_that_does_not_tell_why_clocks_are_held_down_says_nothing_of_throttling_and_gives_watts(error):
    reading = NvmlReader(recorded_nvml(nvmlDeviceGetCurrentClocksEventReasons=error)).read()
    assert (reading.throttled, reading.watts) == (None, 61.25)


def test_a_card_that_is_lost_meanwhile_is_unreadable_and_says_nothing_more():
    nvml = recorded_nvml()
    reader = NvmlReader(nvml)
    lost = vars(recorded_nvml(**dict.fromkeys(("nvmlDeviceGetPowerUsage", "nvmlDeviceGetMemoryInfo", "nvmlShutdown",
                                               "nvmlDeviceGetCount"), NVMLError("GPU is lost"))))
    vars(nvml).update(lost)
    with pytest.raises(Unreadable, match="NVML: GPU is lost"):
        reader.read()
    assert reader.memory_mib() is None and describe(nvml) == []
    reader.close()


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


@pytest.mark.parametrize("content", ["", "energy\n"])
def test_a_counter_of_rapl_that_is_no_number_is_unreadable_at_the_start_and_later(tmp_path, content):
    folder = powercap(tmp_path, {"package-0": 1, "core": 1, "package-1": 1, "psys": 1})
    reader = RaplReader(folder)
    (folder / "intel-rapl:1/energy_uj").write_text(content)
    for read in (reader.read, lambda: RaplReader(folder)):
        with pytest.raises(Unreadable, match=r"intel-rapl:1.energy_uj: holds '.*', must be a whole number"):
            read()


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


def test_whatever_a_source_raises_is_reported_and_what_else_was_read_is_kept():
    class Breaks(Plays):
        def read(self) -> Reading:
            raise KeyError("temperature")

    with Meter({"broken": Breaks(), "board": Plays(Reading(joules=5.0))}) as meter:
        pass
    found = meter.energy(3)
    assert found["broken"] == {"failed": "KeyError: 'temperature'"} and found["board"]["readings"] >= 1


def test_every_reader_is_there_or_says_why_not():
    readers, absent = open_readers()
    for reader in readers.values():
        reader.close()
    assert readers.keys() | absent.keys() == {"nvml", "tegrastats", "rapl"}
    assert all(absent.values())
    if shutil.which("tegrastats") is None:
        assert "no Jetson" in absent["tegrastats"]
