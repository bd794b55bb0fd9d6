"""A small real setting for methods that train: digits, a teacher, a smaller student, few steps."""

from __future__ import annotations

import torch

from boildown.domain.candidate import Candidate
from boildown.methods.base import Context, Data
from boildown.tasks.classification import Classification
from boildown.testing import digits


def few(**options):
    """300 digits to train on."""
    x, y = digits.training_set().tensors
    return Classification(train=(x[:300], y[:300]), validation=digits.validation_set(), **options)


def student(seed=3):
    """A quarter of the teacher's weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return digits.network(8)


def given(task, first=None, students=None, **told):
    """A context with the task's data and a student of the user's."""
    students = {"0": student()} if students is None else students
    candidate = None if first is None else Candidate(first)
    return Context(Data(task.train, task.train), first=candidate, students=students, **told)


def stopping(at):
    """A check that raises when it is asked for the time `at`."""
    left = [at]

    def check():
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    return check
