"""Facts of this machine, for keys and reports. Nothing heavy is imported to learn them."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from boildown.domain.deployment import HERE

# What decides which kernels a runtime picks, under one name for every operating system.
_FLAGS = {
    "avx2": "avx2",
    "avx512f": "avx512f",
    "avx512_vnni": "avx512_vnni",
    "avx512vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "avxvnni": "avx_vnni",
    "amx_int8": "amx_int8",
    "avx512_bf16": "avx512_bf16",
    "amx_bf16": "amx_bf16",
    "asimd": "neon",
    "neon": "neon",
    "asimddp": "neon_dotprod",
    "i8mm": "neon_i8mm",
    "sve": "sve",
    "feat_dotprod": "neon_dotprod",
    "feat_i8mm": "neon_i8mm",
    "advsimd": "neon",
}
VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""Flags of x86 processors that add products of int8 in 32 bits: fast, and without saturation."""
_X86 = ("x86_64", "amd64", "i386", "i686", "x86")
_ARM64 = ("arm64", "aarch64")
_PACKAGES = ("boildown", "torch", "numpy", "onnx", "onnxruntime", "scipy")


@cache
def _hardware() -> dict[str, Any]:
    if sys.platform == "darwin":
        model, flags, memory = _macos()
    elif sys.platform == "win32":
        model, flags, memory = _windows()
    else:
        model, flags, memory = _linux()
    return {
        "cpu": model or platform.processor() or platform.machine() or "unknown",
        "architecture": platform.machine(),
        "flags": sorted({_FLAGS[flag] for flag in flags if flag in _FLAGS}),
        "cores": os.cpu_count() or 1,
        "memory": memory,
        "os": platform.system(),
    }


def free_memory() -> int | None:
    """Bytes that a process may take without harm to the rest of the machine; None where that is not known.

    Four fifths of what is free, or of what the container may have.
    """
    lines = (line.split() for line in _read(Path("/proc/meminfo")).splitlines())
    found = [1024 * int(parts[1]) for parts in lines if parts[:1] == ["MemAvailable:"]]
    if (limit := _read(Path("/sys/fs/cgroup/memory.max")).strip()).isdigit():
        found.append(int(limit))
    return int(0.8 * min(found)) if found else None


def environment() -> dict[str, Any]:
    """Hardware, operating system and package versions as plain data; memory in bytes or `None`.

    A package that is not installed has the version `None`.
    """
    return {
        **_hardware(),
        "flags": list(_hardware()["flags"]),
        "os_release": platform.release(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "machine": machine_key(),
    }


def hardware_of(facts: Mapping[str, Any]) -> str:
    """The hardware that an environment is of: x86-vnni, x86-any, arm64, or the name of another architecture."""
    architecture = str(facts["architecture"]).lower()
    if architecture in _X86:
        return "x86-vnni" if VNNI & set(facts["flags"]) else "x86-any"
    return "arm64" if architecture in _ARM64 else architecture


def resolved(hardware: str) -> str:
    """The hardware that is meant, whatever machine reads it later: "this machine" by its own name."""
    return hardware_of(_hardware()) if hardware == HERE else hardware


def machine_key() -> str:
    """Twelve hex digits, the same for machines on which a timing means the same.

    Made of processor, its flags, cores and operating system: two rented machines of a kind share
    it, and it survives a reboot or an update of the kernel.
    """
    facts = {name: value for name, value in _hardware().items() if name != "memory"}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _linux() -> tuple[str, list[str], int | None]:
    fields: dict[str, str] = {}
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        name, separator, value = line.partition(":")
        if separator:
            fields.setdefault(name.strip().lower(), value.strip())
    model = fields.get("model name") or fields.get("hardware") or fields.get("model") or ""
    if not model and "cpu part" in fields:  # arm64 kernels give numbers only
        model = f"ARM implementer {fields.get('cpu implementer', '?')} part {fields['cpu part']}"
    if "model name" in fields and "cpu family" in fields:  # virtual machines hide the exact name
        model += f" (family {fields['cpu family']} model {fields.get('model', '?')})"
    flags = (fields.get("flags") or fields.get("features") or "").lower().split()
    memory = None
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemTotal:"):
            memory = int(line.split()[1]) * 1024
    return model, flags, memory


def _macos() -> tuple[str, list[str], int | None]:
    facts = {}
    for line in _output("sysctl", "machdep.cpu", "hw.memsize", "hw.optional").splitlines():
        name, separator, value = line.partition(":")
        if separator:
            facts[name.strip().lower()] = value.strip()
    flags = (facts.get("machdep.cpu.features", "") + " " + facts.get("machdep.cpu.leaf7_features", "")).lower()
    present = [name.rpartition(".")[2] for name, value in facts.items() if "hw.optional" in name and value == "1"]
    memory = facts.get("hw.memsize", "")
    return (
        facts.get("machdep.cpu.brand_string", ""),
        flags.split() + present,
        int(memory) if memory.isdigit() else None,
    )


def _windows() -> tuple[str, list[str], int | None]:
    # The flags need a native call per feature; numpy has made them, if under a private name.
    try:
        features = import_module("numpy._core._multiarray_umath").__cpu_features__
    except (ImportError, AttributeError):
        features = {}
    flags = [name.lower() for name, present in features.items() if present]
    return os.environ.get("PROCESSOR_IDENTIFIER", ""), flags, None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
