"""An artifact that is called like the model it was made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from boildown.domain.artifact import Artifact
from boildown.execution.child import Child
from boildown.runtimes.base import Array


class ArtifactModel:
    """Runs an artifact in a child process, with the model's own inputs and output structure.

    `example` is the (args, kwargs) the model was captured with: it gives the order of keyword
    arguments. `output` puts the flat outputs back into the model's structure; without it a single output is
    returned bare and several as a tuple.
    """

    def __init__(
        self,
        child: Child,
        artifact: Artifact,
        *,
        example: tuple[tuple[Any, ...], Mapping[str, Any]],
        output: Callable[[Sequence[Any]], Any] | None,
        threads: int,
        trust: bool,
        check: Callable[[], None],
        deadline: float | None = None,
    ) -> None:
        self._child, self._artifact, self._threads = child, artifact, threads
        self._example, self._output = example, output
        self._check, self._deadline, self._trust = check, deadline, trust

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        arrays = flatten(args, kwargs, self._example)
        outputs = self._child.call(
            "boildown.runtimes.calls:run",
            self._artifact.runtime,
            str(self._artifact.path),
            self._threads,
            arrays,
            trust=self._trust,
            check=self._check,
            deadline=self._deadline,
            retries=1,
            doing=f"running {self._artifact.name}",
        )
        tensors = [torch.from_numpy(array) for array in outputs]
        if self._output is None:
            return tensors[0] if len(tensors) == 1 else tuple(tensors)
        return self._output(tensors)


def flatten(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], example: tuple[tuple[Any, ...], Mapping[str, Any]]
) -> list[Array]:
    """The tensors of a call as arrays, in the order in which the model was captured."""
    named = {name: kwargs[name] for name in example[1] if name in kwargs}
    leaves = pytree.tree_leaves((args, named))
    return [leaf.detach().cpu().numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]
