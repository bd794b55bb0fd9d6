"""`boildown doctor`"""

from __future__ import annotations

import typer

from boildown.cli.options import AsJson, echo_json
from boildown.measure.environment import environment


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("doctor")(doctor)


def doctor(as_json: AsJson = False) -> int:
    """Tell what this machine has, and what that means for int8."""
    facts = environment()
    if as_json:
        echo_json({**facts, "advice": advice(facts["flags"], facts["architecture"])})
        return 0
    typer.echo(f"processor   {facts['cpu']} ({facts['cores']} cores, {facts['architecture']})")
    typer.echo(f"int8        {advice(facts['flags'], facts['architecture'])}")
    typer.echo(f"memory      {(facts['memory'] or 0) / 1e9:.1f} GB")
    typer.echo(f"system      {facts['os']} {facts['os_release']}, Python {facts['python']}")
    for name, version in facts["packages"].items():
        typer.echo(f"{name:<11} {version or 'not installed'}")
    missing = [name for name, version in facts["packages"].items() if version is None and name != "boildown"]
    if missing:
        typer.echo(f"missing     pip install {' '.join(missing)}", err=True)
    return 1 if missing else 0


def advice(flags: list[str], architecture: str) -> str:
    """What the processor's instructions mean for quantized models."""
    if {"avx512_vnni", "avx_vnni"} & set(flags):
        return "VNNI: int8 convolutions usually run about twice as fast as float (uint8 activations, int8 weights)"
    if architecture.lower() in ("arm64", "aarch64"):
        return (
            "dot products: int8 is fast"
            if "neon_dotprod" in flags
            else "no dot product instructions: int8 gains little"
        )
    return "no VNNI: int8 files are smaller, but may run no faster than float; measure before you deploy"
