"""How a training can fail; each is the failure of one attempt, after which the run goes on."""

from __future__ import annotations

from boildown.errors import AttemptError


class DivergenceError(AttemptError):
    """The loss became NaN or exploded, again after the learning rate had been halved twice."""

    name = "diverged"


class MismatchError(AttemptError):
    """A distillation loss cannot compare this student with this teacher."""

    name = "does not compare"


class ReadError(AttemptError):
    """The training data raised where it was read."""

    name = "data unreadable"


class OutOfMemoryError(AttemptError):
    """A single sample does not fit into the device's memory."""

    name = "out of memory"
