"""What is said of the machine, on recorded files, and when it counts as quiet."""

from dataclasses import replace

import pytest

from benchmarks.speed.machine import cpu_name, cpu_quota, describe, jetson, power_mode
from benchmarks.speed.noise import Look, judge, look

CPUINFO = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Core(TM) i7-1265U
flags\t\t: fpu avx2
processor\t: 1
model name\t: Intel(R) Core(TM) i7-1265U
"""
RELEASE = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64"


def write(root, **files: str) -> None:
    for place, text in files.items():
        path = root / place.replace("__", "/").replace("_DOT_", ".").replace("_DASH_", "-")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_the_processor_has_its_name_from_linux(tmp_path):
    write(tmp_path, proc__cpuinfo=CPUINFO)
    assert cpu_name(tmp_path) == "Intel(R) Core(TM) i7-1265U"


@pytest.mark.parametrize("said, cores", [("150000 100000\n", 1.5), ("max 100000\n", None), (None, None)])
def test_a_containers_share_of_the_processor_is_told(tmp_path, said, cores):
    if said is not None:
        write(tmp_path, sys__fs__cgroup__cpu_DOT_max=said)
    assert cpu_quota(tmp_path) == cores


def test_a_jetson_says_which_it_is(tmp_path):
    assert jetson(tmp_path) is None
    write(tmp_path, etc__nv_tegra_release=f"{RELEASE}\n",
          proc__device_DASH_tree__model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0")
    found = jetson(tmp_path)
    assert found["model"] == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert found["l4t"] == RELEASE


@pytest.mark.parametrize("said, mode", [
    ("NV Power Mode: MAXN_SUPER\n2\n", "MAXN_SUPER"),
    ("NVPM WARN: fan mode is not set!\nNV Power Mode: 15W\n0\n", "15W"),
    ("", None),
])
def test_a_power_mode_is_told_by_its_name(said, mode):
    assert power_mode(said) == mode


def test_this_machine_is_described_with_all_that_numbers_depend_on():
    found = describe()
    assert found["cores"] >= 1 and found["memory_gb"] > 0 and found["cpu"]
    assert found.keys() >= {"cpu_features", "clock_mhz", "governor", "gpus", "jetson", "packages", "safeguard"}


# Noise

BEFORE = Look(at=0.0, spins_ms=(1.0,) * 15, busy_s=1000.0, own_s=10.0, stolen_s=5.0, load=0.1, clock_mhz=2600)
AFTER = Look(at=100.0, spins_ms=(1.0,) * 15, busy_s=1100.0, own_s=109.0, stolen_s=5.0, load=1.0, clock_mhz=2400)


def test_a_machine_that_does_nothing_else_is_quiet():
    found = judge([BEFORE, AFTER])
    assert (found["quiet"], found["reasons"]) == (True, [])
    assert (found["others_cores"], found["spin_ms"]["value"]) == (0.01, 1.0)
    assert found["clocks_mhz"] == [2600, 2400]


@pytest.mark.parametrize("change, why", [
    ({"busy_s": 1180.0}, "other processes used 0.81 cores"),
    ({"stolen_s": 605.0}, "the hypervisor took"),
    ({"spins_ms": (1.2,) * 15}, "the same work was 20% slower at one time than at another"),
    ({"spins_ms": (1.0,) * 10 + (1.5,) * 5}, "took 50% longer at times than in the middle"),
])
def test_each_kind_of_noise_is_named(change, why):
    found = judge([BEFORE, replace(AFTER, **change)])
    assert not found["quiet"]
    assert any(why in reason for reason in found["reasons"])


def test_a_look_at_this_machine_times_real_work():
    one = look()
    assert len(one.spins_ms) == 15 and min(one.spins_ms) > 0
    assert one.busy_s > 0 and one.own_s > 0
