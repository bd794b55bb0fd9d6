"""Fixed views of data that is augmented at random."""

from __future__ import annotations

import torch
from training_networks import Jittered

from boildown.tasks.data import samples_from
from boildown.training.reading import repeats
from boildown.training.views import Views


def noisy(inputs, target):
    return inputs + torch.randn_like(inputs), target


def read(samples, size):
    inputs, targets = zip(*samples.batches(size), strict=True)
    return torch.cat(inputs), torch.cat(targets)


def test_views_are_the_same_whenever_and_however_they_are_read():
    samples = samples_from(Jittered(20))
    assert not repeats(samples)
    views = Views(samples, noisy, 3, seed=1)
    assert len(views) == 60
    assert repeats(views)
    x, y = read(views, 7)
    torch.manual_seed(5)
    assert torch.equal(read(views, 60)[0], x)
    assert torch.equal(read(views.subset([3, 41]), 2)[0], x[[3, 41]])
    assert torch.equal(y[:20], y[20:40])
    assert not torch.equal(x[:20], x[20:40]), "every view is another"
    assert not torch.equal(read(Views(samples, noisy, 3, seed=2), 60)[0], x)


def test_fingerprints_tell_views_apart():
    samples = samples_from(Jittered(20))
    views = Views(samples, noisy, 2, seed=1)
    assert views.fingerprint(every=False) == Views(samples_from(Jittered(20)), noisy, 2, 1).fingerprint(every=False)
    others = [Views(samples, noisy, 3, 1), Views(samples, noisy, 2, 2), views.subset([0, 1])]
    assert len({view.fingerprint(every=False) for view in (views, *others)}) == 4
