from __future__ import annotations

import json
import subprocess
import sys

import pytest

from boildown.measuring import environment as under_test
from boildown.measuring.environment import environment, machine_key

ARM = """processor\t: 0
Features\t: fp asimd evtstrm asimddp i8mm sve
CPU implementer\t: 0x41
CPU part\t: 0xd40
"""
APPLE = """machdep.cpu.brand_string: Apple M3
hw.memsize: 17179869184
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_I8MM: 0
hw.optional.AdvSIMD: 1
"""


def test_facts_are_plain_and_whole() -> None:
    facts = environment()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cores"] >= 1
    assert facts["packages"]["numpy"]
    assert facts["cpu"]
    assert facts["machine"] == machine_key()


def test_machine_key_is_the_same_in_another_process() -> None:
    code = "from boildown.measuring.environment import machine_key; print(machine_key(), end='')"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout == machine_key()
    assert len(machine_key()) == 12


def test_an_arm_kernel_without_a_model_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "_read", lambda path: ARM if path.name == "cpuinfo" else "MemTotal: 8 kB")
    model, flags, memory = under_test._linux()
    assert model == "ARM implementer 0x41 part 0xd40"
    assert {under_test._FLAGS[f] for f in flags if f in under_test._FLAGS} == {
        "neon",
        "neon_dotprod",
        "neon_i8mm",
        "sve",
    }
    assert memory == 8192


def test_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "_output", lambda *command: APPLE)
    model, flags, memory = under_test._macos()
    assert (model, memory) == ("Apple M3", 16 * 2**30)
    assert {under_test._FLAGS[f] for f in flags if f in under_test._FLAGS} == {"neon", "neon_dotprod"}


@pytest.mark.parametrize("platform", ["darwin", "win32", "freebsd"])
def test_other_systems_do_not_crash(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(under_test, "_read", lambda path: "")
    monkeypatch.setattr(under_test, "_output", lambda *command: "")
    facts = under_test._hardware.__wrapped__()
    assert facts["cpu"]
    assert facts["memory"] is None


def test_measuring_loads_neither_torch_nor_a_runtime() -> None:
    code = (
        "import sys, boildown.measuring.latency, boildown.measuring.memory, boildown.measuring.quality, "
        "boildown.measuring.size; print([m for m in ('torch', 'onnxruntime', 'onnx') if m in sys.modules])"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"
