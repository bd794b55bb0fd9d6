"""Corruptions: what the field does to inputs, drawn from a seed, as data sets made of another one.

Which ones there are depends on what the inputs are: pictures, sounds or rows of a table.
"""

from boildown.tasks.corrupted.labels import NAMES, Label, label, labels
from boildown.tasks.corrupted.samples import Own, corrupted, tried
from boildown.tasks.corrupted.shipped import own, shipped

__all__ = ["NAMES", "Label", "Own", "corrupted", "label", "labels", "own", "shipped", "tried"]
