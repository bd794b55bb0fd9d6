"""One node of a file as a module without weights of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from boildown.errors import text_of
from boildown.surgery.onnx_in.values import MOST_NUMBERS, Known, objects, tensor

_FLOATS = 16


class Step(nn.Module):
    """A function of values, and of constants that stand among them.

    label: the node in words. places: for each input a constant, `None` for one that is left out, or `GIVEN`. outputs:
    how many values are asked for.
    """

    GIVEN = "given"

    def __init__(
        self,
        label: str,
        function: Callable[..., Any],
        settings: Mapping[str, Any],
        places: Sequence[Any],
        outputs: int = 1,
    ) -> None:
        super().__init__()
        self.label, self.function, self.settings, self.outputs = label, function, dict(settings), outputs
        self.places: list[Any] = []
        for position, place in enumerate(places):
            if isinstance(place, Tensor):
                known = as_numbers(place)
                if known is None or known.array.size > 1:
                    finite = not place.is_floating_point() or bool(torch.isfinite(place).all())
                    self.register_buffer(f"constant_{position}", place.contiguous(), persistent=finite)
                self.places.append(known if known is not None else f"constant_{position}")
            else:
                self.places.append(place)

    def forward(self, *values: Any) -> Any:
        """The function's value. Raises RuntimeError with the node's name where it fails."""
        left = iter(values)
        given = [self._of(position, place, left) for position, place in enumerate(self.places)]
        try:
            found = self.function(*given, **self.settings)
        except Exception as error:
            said = text_of(error).partition("\n")[0] or type(error).__name__
            raise RuntimeError(f"{self.label} cannot be computed: {said}") from error
        return found[0] if self.outputs == 1 and isinstance(found, tuple) else found

    def _of(self, position: int, place: Any, left: Any) -> Any:
        if isinstance(place, str):
            return next(left) if place == self.GIVEN else self.get_buffer(place)
        if isinstance(place, Known) and place.array.size > 1:
            return Known(place.array, place.dtype, self.get_buffer(f"constant_{position}"))
        return place

    def extra_repr(self) -> str:
        """The node and its settings, as they are printed."""
        return ", ".join([self.label, *(f"{name}={value!r}" for name, value in self.settings.items())])


def as_numbers(constant: Tensor) -> Known | None:
    """A constant as numbers that are known; None where it is too large for that."""
    most = _FLOATS if constant.is_floating_point() else MOST_NUMBERS
    if constant.numel() > most:
        return None
    items = constant.reshape(-1).tolist()
    return Known(objects(items, tuple(constant.shape)), constant.dtype, constant if len(items) > 1 else None)


def as_tensors(*values: Any) -> Any:
    """What a file gives: tensors, where numbers were known."""
    made = tuple(tensor(value) for value in values)
    return made if len(made) > 1 else made[0]


class Branch(nn.Module):
    """Either of two parts, as a condition says that follows from sizes alone."""

    def __init__(self, label: str, then: nn.Module, otherwise: nn.Module) -> None:
        super().__init__()
        self.label, self.then, self.otherwise = label, then, otherwise

    def forward(self, condition: Any, *values: Any) -> Any:
        """What the part gives that the condition picks."""
        if not isinstance(condition, Known):
            raise RuntimeError(f"{self.label} cannot be computed: its condition depends on data")
        return (self.then if condition.array.item() else self.otherwise)(*values)
