"""Corruptions do to pictures, sounds and rows what they say, and the same whoever reads them, and when."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch.utils.data import DataLoader

import boildown as bd
from boildown.domain.preprocess import (
    Cast,
    ColumnOf,
    Columns,
    Decode,
    Layout,
    Normalize,
    Output,
    Preprocess,
    Raw,
    Scale,
)
from boildown.domain.target import Target
from boildown.errors import InputError
from boildown.tasks.corrupted.labels import SHIPPED
from boildown.tasks.others import beside, target_of
from boildown.tasks.splits import resolve

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STEPS = (Decode("RGB"), Scale(), Normalize(MEAN, STD), Layout(), Cast())
PICTURE = Preprocess((Raw("picture", STEPS),), Output("classes"))


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def pictures(count, side, seed=0):
    """Smooth pictures from 0 to 1, in colour."""
    small = random(count, 3, 4, 4, seed=seed)
    return torch.nn.functional.interpolate(small, size=(side, side), mode="bilinear")


def normalized(pixels):
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std


def pixels_of(tensor):
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (MEAN, STD))
    return tensor * std + mean


def task_of(inputs, said=None, **options):
    task = bd.Classification(validation=(inputs, torch.arange(len(inputs)) % 2), **options)
    task.preprocess = said
    return task


def corrupted(task, label, seed=0):
    """(the samples of a verdict, what is told of them)."""
    target = target_of(task, [f"accuracy[{label}] >= 50 %"])
    plain = resolve(task, seed)
    splits = beside(task, plain, target, seed)
    return splits.others[label].verdict, splits.notes[len(plain.notes) :]


def inputs_of(samples, size=None):
    parts = [inputs for inputs, _target in samples.batches(size)]
    return torch.cat(parts)


def both(task, label):
    """The verdict's inputs as they are, and corrupted."""
    return inputs_of(resolve(task, 0).verdict), inputs_of(corrupted(task, label)[0])


# -- pictures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "deviation"), [(32, 0.08), (96, 0.18)])
@pytest.mark.parametrize(
    ("to", "back", "said"),
    [
        (normalized, pixels_of, PICTURE),
        (normalized, pixels_of, None),
        (lambda pixels: pixels, lambda made: made, None),
        (lambda pixels: 2 * pixels - 1, lambda made: (made + 1) / 2, None),
        (lambda pixels: 255 * pixels, lambda made: made / 255, None),
    ],
)
def test_noise_has_the_deviation_of_the_paper_in_pixels_whatever_the_tensor_holds(side, deviation, to, back, said):
    light = torch.cat([torch.full((40,), 0.5), torch.zeros(4), torch.ones(4)]).reshape(-1, 1, 1, 1)
    before, after = both(task_of(to(light.expand(-1, 3, side, side)), said), "noise:3")
    grey = (back(before) - 0.5).abs().amax((1, 2, 3)) < 0.01
    assert grey.sum() > 8
    assert back(after)[grey].std() == pytest.approx(deviation, rel=0.03)


def test_every_picture_corruption_stays_within_black_and_white_and_grows_with_severity():
    task = task_of(normalized(pictures(16, 32)), PICTURE)
    for name in SHIPPED["picture"]:
        far = []
        for severity in (1, 3, 5):
            before, after = both(task, f"{name}:{severity}")
            assert after.dtype == torch.float32
            assert -1e-4 <= pixels_of(after).min() <= pixels_of(after).max() <= 1 + 1e-4
            far.append(float((after - before).abs().mean()))
        assert 0 < far[0] < far[1] < far[2], name


def test_blur_contrast_brightness_and_jpeg_are_those_of_the_libraries():
    pixels = pictures(16, 32)
    task = task_of((pixels * 255).round().byte())
    before, after = (part.double() for part in both(task, "contrast:5"))
    mean = before.mean((2, 3), keepdim=True)
    assert ((before - mean) * 0.15 + mean - after).abs().max() <= 0.51
    before, after = both(task, "blur:5")
    wanted = ndimage.gaussian_filter(before.double().numpy(), (0, 0, 1, 1), mode="nearest")
    assert np.abs(wanted - after.numpy()).max() <= 0.51
    before, after = (part.double() / 255 for part in both(task, "brightness:4"))
    assert (after.amax(1) - (before.amax(1) + 0.2).clamp(max=1)).abs().max() < 0.005
    saturation = [1 - part.amin(1) / part.amax(1).clamp_min(0.05) for part in (before, after)]
    assert (saturation[0] - saturation[1])[before.amax(1) > 0.2].abs().max() < 0.02
    before, after = both(task, "jpeg:5")
    file = io.BytesIO()
    Image.fromarray(before[3].movedim(0, -1).numpy()).save(file, "JPEG", quality=40)
    assert torch.equal(torch.from_numpy(np.array(Image.open(file))).movedim(-1, 0), after[3])


def test_defocus_spreads_a_point_over_a_disk():
    black = torch.zeros(8, 1, 96, 96)
    black[:, :, 48, 48] = 1.0
    _, after = both(task_of(black), "defocus:1")
    lit = (after[0, 0] > 0.5 / 29).nonzero()
    assert ((lit - 48).double().norm(dim=1) <= 3.01).all()
    assert len(lit) == 29, "a disk of radius 3"
    assert float(after[0].sum()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((16, 12, 12, 3), torch.uint8), ((16, 12, 12), torch.float32), ((16, 1, 12, 10), torch.float64)],
)
def test_pictures_may_have_their_channels_last_or_none_and_be_bytes(shape, dtype):
    made = random(*shape)
    made = (made * 255).round().byte() if dtype == torch.uint8 else made.to(dtype)
    before, after = both(task_of(made), "impulse-noise:5")
    assert after.dtype == dtype
    assert after.shape == before.shape
    changed = (after != before).double().mean()
    assert changed == pytest.approx(0.07, abs=0.025)
    assert set(after[after != before].tolist()) <= ({0, 255} if dtype == torch.uint8 else {0.0, 1.0})


def test_what_is_not_described_is_told_with_the_range_that_was_seen():
    made = normalized(pictures(32, 16))
    _, told = corrupted(task_of(made), "contrast:1")
    assert len(told) == 1
    assert told[0].startswith("inputs of shape (3, 16, 16) are taken for pictures, black -")
    assert corrupted(task_of(made, PICTURE), "contrast:1")[1] == ()


# -- sounds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("label", "decibel"), [("noise:3", 15), ("noise:30dB", 30), ("noise:-3.5dB", -3.5)])
def test_noise_lies_so_many_decibels_below_a_sound(label, decibel):
    time = torch.arange(8000) / 8000
    sounds = torch.stack([30 * loud * torch.sin(440 * 6.28 * time) for loud in torch.linspace(0.1, 1, 16)])
    before, after = both(task_of(sounds[:, None]), label)
    power = before.square().mean((1, 2)) / (after - before).square().mean((1, 2))
    assert (10 * power.log10()).tolist() == pytest.approx([decibel] * len(before), abs=0.2)


def test_gain_scales_and_what_would_be_too_loud_is_cut_off():
    sounds = 0.4 * (2 * random(16, 5000) - 1)
    before, after = both(task_of(sounds), "gain:1")
    assert torch.allclose(after, before * 10 ** (-6 / 20))
    before, after = both(task_of(sounds), "gain:20dB")
    assert after.abs().max() == 1.0
    before, after = both(task_of((sounds * 32767).short()), "gain:20dB")
    assert (after.dtype, after.max()) == (torch.int16, 32767)


# -- rows ----------------------------------------------------------------------------------------------


def rows(count=600):
    numbers = torch.randn(count, 3, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 10.0, 0.1]) + 5
    return torch.cat([numbers, torch.randint(1, 4, (count, 1), generator=torch.Generator().manual_seed(2))], 1)


COLUMNS = (*(ColumnOf(name, "number", fill=7.5) for name in "abc"), ColumnOf("d", "category", categories=tuple("xyz")))
ROW = Preprocess((Raw("row", (Columns(COLUMNS),)),), Output("classes"))


def test_missing_values_are_filled_as_they_are_where_the_model_runs():
    before, after = both(task_of(rows(), ROW), "missing:4")
    lost = before != after
    assert lost.double().mean(0).tolist() == pytest.approx([0.3] * 4, abs=0.08)
    assert set(after[:, :3][lost[:, :3]].tolist()) == {7.5}
    assert set(after[:, 3][lost[:, 3]].tolist()) == {0.0}, "a category that is missing"
    before, after = both(task_of(rows()), "missing:4")
    lost = before != after
    filled = after[:, 1][lost[:, 1]].unique()
    assert len(filled) == 1
    assert float(filled) == pytest.approx(float(rows()[:, 1].mean()), abs=0.5), "the mean where nothing is described"
    assert float(after[:, 3].max()) <= 3
    assert float(after[:, 3].min()) >= 1


@pytest.mark.parametrize("said", [ROW, None])
def test_numbers_are_moved_by_parts_of_their_deviation_and_categories_stay(said):
    before, after = both(task_of(rows(), said), "shift:2")
    moved = after - before
    assert moved.std(0).max() < 1e-5, "each column as a whole"
    assert (moved.mean(0).abs() / before.std(0)).tolist() == pytest.approx([0.2, 0.2, 0.2, 0.0], abs=0.03)


# -- whoever reads them --------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_samples_in_any_order_batch_and_process():
    made = normalized(pictures(48, 16))
    once, again, other = (corrupted(task_of(made, PICTURE), "shot-noise:2", seed)[0] for seed in (0, 0, 1))
    assert torch.equal(inputs_of(once, 7), inputs_of(again, 48))
    assert once.fingerprint(every=True) == again.fingerprint(every=True) != other.fingerprint(every=True)
    assert not torch.equal(inputs_of(once), inputs_of(other))
    backwards = again.subset(list(reversed(range(len(again)))))
    assert torch.equal(inputs_of(backwards).flip(0), inputs_of(once))
    data = torch.utils.data.TensorDataset(made, torch.arange(48) % 2)
    loaded = task_of(made, PICTURE)
    loaded = bd.Classification(validation=DataLoader(data, batch_size=8, num_workers=1))
    loaded.preprocess = PICTURE
    assert torch.equal(inputs_of(corrupted(loaded, "shot-noise:2")[0]), inputs_of(once)), "made by a worker"
    assert inputs_of(once).std() != inputs_of(resolve(task_of(made), 0).verdict).std()
    assert torch.equal(made, normalized(pictures(48, 16))), "the user's own are as they were"


def test_search_and_verdict_share_no_corrupted_sample():
    task = task_of(normalized(pictures(1100, 4)), PICTURE)
    target = target_of(task, ["accuracy[noise:1] >= 50 %"])
    plain = resolve(task, 0)
    splits = beside(task, plain, target, 0).others["noise:1"]
    assert splits.search_labelled
    assert splits.search.places.tolist() == plain.search.places.tolist()
    assert splits.verdict.places.tolist() == plain.verdict.places.tolist()
    assert splits.calibration is plain.calibration


def test_inputs_of_several_parts_are_corrupted_where_it_fits():
    items = [({"b": random(3, 8, 8, seed=i), "a": torch.tensor([i]), "c": random(2, seed=i)}, i % 2) for i in range(32)]
    task = bd.Classification(validation=items)
    clean, noisy, odd = (
        next(samples.batches(16))[0]
        for samples in (resolve(task, 0).verdict, corrupted(task, "noise:5")[0], corrupted(task, "shift:5")[0])
    )
    assert torch.equal(clean["a"], noisy["a"])
    assert torch.equal(clean["c"], noisy["c"])
    assert not torch.equal(clean["b"], noisy["b"])
    assert torch.equal(clean["b"], odd["b"])
    assert not torch.equal(clean["c"], odd["c"])


# -- functions of one's own ----------------------------------------------------------------------------


def fog(inputs, severity, generator):
    thick = torch.rand(inputs.shape, generator=generator)
    return inputs + severity * thick


def test_an_own_function_gets_one_sample_a_severity_and_a_generator():
    made, seen = random(32, 5), set()

    def seen_fog(inputs, severity, generator):
        seen.add((tuple(inputs.shape), severity, type(severity).__name__, type(generator).__name__))
        return fog(inputs, severity, generator)

    task = task_of(made, corruptions={"fog": seen_fog})
    before, after = both(task, "fog:2")
    assert 0 < (after - before).min() < (after - before).max() < 2
    both(task, "fog:0.5")
    assert seen == {((1, 5), 2, "int", "Generator"), ((1, 5), 0.5, "float", "Generator")}
    noisy = task_of(made, corruptions={"noise": fog})
    assert (both(noisy, "noise:7")[1] - before).max() > 2, "in the place of a shipped one"


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda x, s, g: x + torch.rand(x.shape), "gives something else when it is asked again"),
        (lambda x, s, g: x[:, :3], r"makes \(3,\) \(float32\) of \(5,\) \(float32\)"),
        (lambda x, s, g: x.double(), r"makes \(5,\) \(float64\) of \(5,\) \(float32\)"),
        (lambda x, s, g: x / 0, "makes NaN or infinity of item"),
        (lambda x, s: x, "fails on item"),
        (lambda x, s, g: None, "makes NoneType of"),
    ],
)  # fmt: skip
def test_own_functions_that_cannot_be_used_are_refused(function, told):
    with pytest.raises(InputError, match=told):
        corrupted(task_of(random(32, 5), corruptions={"fog": function}), "fog:1")


def test_an_own_function_that_works_in_place_spoils_nothing_and_one_that_does_nothing_is_told():
    made = random(32, 5)
    before = made.clone()
    samples, told = corrupted(task_of(made, corruptions={"fog": lambda x, s, g: x.mul_(2)}), "fog:1")
    assert told == ()
    assert torch.equal(inputs_of(samples, 8), inputs_of(samples, 3))
    assert torch.equal(made, before)
    _, told = corrupted(task_of(made, corruptions={"fog": lambda x, s, g: x}), "fog:1")
    assert told == ("fog:1 changes none of the 8 samples that were looked at",)


# -- what cannot be applied ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "label", "told"),
    [
        (task_of(rows(40)), "blur:3", "is one of pictures; the inputs are rows of a table.*there are missing, shift"),
        (task_of(pictures(16, 8)), "gain:1", "is one of sounds; the inputs are pictures.*there are noise, shot-noise"),
        (task_of(pictures(16, 8)), "noise:20dB", "is one of sounds; the inputs are pictures"),
        (task_of(random(16, 5000)), "missing:1", "is one of rows of a table; the inputs are sounds"),
        (task_of(torch.randint(9, (16, 12))), "noise:1", "the inputs are no pictures, sounds or rows.*of your own"),
        (task_of(random(16, 5, 8, 8)), "jpeg:1", "JPEG takes 1 or 3 channels, and the pictures have 5"),
    ],
)
def test_corruptions_of_other_inputs_are_refused_with_those_that_there_are(task, label, told):
    with pytest.raises(InputError, match=f"(?s){told}"):
        corrupted(task, label)


def test_all_that_cannot_be_applied_is_told_at_once():
    task = task_of(rows(40))
    target = target_of(task, [f"accuracy[{name}:1] >= 50 %" for name in ("blur", "gain", "shift")])
    assert isinstance(target, Target)
    with pytest.raises(InputError) as refused:
        beside(task, resolve(task, 0), target, 0)
    assert len(refused.value.mistakes) == 2
    described = replace(PICTURE, inputs=(Raw("text"),))
    with pytest.raises(InputError, match="no pictures, sounds or rows"):
        corrupted(task_of(rows(40), described), "shift:1")
