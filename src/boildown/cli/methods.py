"""`boildown methods [NAME]`"""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Annotated, Any

import typer

from boildown.cli.options import AsJson, echo_json, methods_beginning
from boildown.errors import InputError
from boildown.methods.base import Method
from boildown.methods.registry import installed, suggestion


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("methods")(methods)


def methods(
    name: Annotated[
        str | None,
        typer.Argument(help="A method; all of them without.", metavar="NAME", autocompletion=methods_beginning),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """List the methods, or show the card of one."""
    if name is not None and name not in installed():
        raise InputError.of(f"There is no method called {name!r}.", suggestion(name, list(installed())))
    chosen = {name: installed()[name]} if name is not None else installed()
    if as_json:
        echo_json([card_of(method) for method in chosen.values()])
    elif name is None:
        for key, method in chosen.items():
            typer.echo(f"{key:<18} {method.card.summary}")
    else:
        typer.echo(_page(card_of(chosen[name])))
    return 0


def card_of(method: type[Method]) -> dict[str, Any]:
    """A method's card and settings as plain data."""
    settings = {
        f.name: {"default": f.default, **f.metadata}
        for f in fields(method)  # type: ignore[arg-type]
    }
    return {**asdict(method.card), "settings": settings}


def _page(card: dict[str, Any]) -> str:
    lines = [f"{card['name']}: {card['summary']}", ""]
    lines += [f"when      {card['when']}", f"when not  {card['when_not']}"]
    lines += [f"lowers    {', '.join(card['lowers'])}", f"costs     {', '.join(card['costs'])}"]
    lines += [
        f"needs     {', '.join(card['needs']) or 'nothing but the model'}",
        f"source    {card['source']}",
    ]
    for name, setting in card["settings"].items():
        choices = f" ({', '.join(map(str, setting['choices']))})" if setting["choices"] else ""
        lines.append(f"\n  {name} = {setting['default']}{choices}\n      {setting['summary']}")
    return "\n".join(lines)
