"""`boildown doctor`"""

from __future__ import annotations

from importlib import metadata
from typing import Any

import typer

from boildown.cli.options import AsJson, echo_json
from boildown.errors import BoildownError, install
from boildown.execution.child import Child
from boildown.execution.quiet import quiet
from boildown.measuring.environment import VNNI, environment
from boildown.measuring.probe import contradiction
from boildown.runtimes import names

_NEEDED = ("onnx", "onnxruntime")
_EXTRAS = {
    "demo": ("scikit-learn", "the demo's digits"),
    "images": ("pillow", "`init --image-folder`"),
    "parquet": ("pyarrow", "`init --parquet`"),
    "transformers": ("transformers", "`init --transformers`"),
    "timm": ("timm", "`init --timm`"),
    "torchmetrics": ("torchmetrics", "metrics of torchmetrics"),
    "openvino": ("openvino", "the runtime openvino"),
}
"""Extras of the package: what they install, and what for."""

_FAST, _SLOW = 1.5, 1.2
_PATIENCE = 1.0  # seconds to wait for other runs to give way
_DEADLINE = 30.0


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("doctor")(doctor)


def doctor(as_json: AsJson = False) -> int:
    """Tell what this machine has, and how fast int8 runs on it, by measurement."""
    facts = environment()
    missing = [name for name, version in facts["packages"].items() if version is None and name != "boildown"]
    found = None if set(_NEEDED) & set(missing) else _measured()
    extras = {extra: _version(package) for extra, (package, _what) in _EXTRAS.items()}
    if as_json:
        told = advice(facts["flags"], facts["architecture"], found)
        echo_json({**facts, "int8": found, "advice": told, "runtimes": names(), "extras": extras})
        return 1 if missing else 0
    typer.echo(f"processor   {facts['cpu']} ({facts['cores']} cores, {facts['architecture']})")
    for line in advice(facts["flags"], facts["architecture"], found):
        typer.echo(f"int8        {line}")
    typer.echo(f"memory      {(facts['memory'] or 0) / 1e9:.1f} GB")
    typer.echo(f"system      {facts['os']} {facts['os_release']}, Python {facts['python']}")
    for name, version in facts["packages"].items():
        typer.echo(f"{name:<11} {version or 'not installed'}")
    typer.echo(f"runtimes    {', '.join(names())}")
    for extra, version in extras.items():
        package, what = _EXTRAS[extra]
        line = f"{package} {version}" if version else f"not installed; for {what}: {install(extra)}"
        typer.echo(f"extra       {extra}: {line}")
    if missing:
        typer.echo(f"missing     pip install {' '.join(missing)}", err=True)
    return 1 if missing else 0


def advice(flags: list[str], architecture: str, found: dict[str, Any] | None) -> list[str]:
    """What was measured of int8, what the processor tells, and where the two disagree, in sentences."""
    lines = []
    if found is None:
        lines.append("not measured: ONNX Runtime did not run here")
    else:
        lines.append(f"int8 convolutions run {found['speedup']:.1f}x as fast as float here")
        lines += found["notes"]
        lines.append(_expect(found["speedup"]))
    if architecture.lower() in ("arm64", "aarch64"):
        lines.append(
            "the processor has dot products of int8" if "neon_dotprod" in flags else "the processor has no dot products"
        )
    elif "amx_int8" in flags:
        lines.append("the processor has AMX: weights take all 8 bits, and large matrices gain the most")
    elif VNNI & set(flags):
        lines.append("the processor has VNNI: weights take all 8 bits")
    else:
        lines.append("the processor has no VNNI: weights take 7 bits, so that sums of 16 bits do not saturate")
    odd = None if found is None else contradiction(flags, found["speedup"])
    return [*lines, f"warning: {odd}"] if odd else lines


def _expect(speedup: float) -> str:
    """What a speed-up of convolutions lets one hope for."""
    if speedup >= _FAST:
        return "good at int8: expect a quarter of the size and a gain in time that `latency <= 0.7x` may ask for"
    if speedup >= _SLOW:
        return "fair at int8: expect a quarter of the size and a little less time"
    return "not good at int8: expect a quarter of the size and no less time; for time take prune or depth"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _measured() -> dict[str, Any] | None:
    """The speed of int8 by measurement in a child, or None where that fails."""
    try:
        with Child() as child, quiet(patience=_PATIENCE) as still:
            found: dict[str, Any] = child.call(
                "boildown.measuring.probe:time_int8", deadline=_DEADLINE, doing="timing int8"
            )
    except BoildownError as error:
        typer.echo(f"int8        could not be measured: {error}", err=True)
        return None
    return found if still.alone else {**found, "notes": [*found["notes"], "noisy: other runs were computing meanwhile"]}
