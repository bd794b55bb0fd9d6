"""A folder of images as a task: classes by folder, a split that stays, pixels as a network expects them."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from boildown.errors import DataError
from boildown.tasks.images import IMAGENET, ImageFolder, Images, Look, image_folder
from boildown.tasks.networks import image_network


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """30 cats, 30 dogs, in colour, 16 x 12; and what else lies in such folders."""
    random = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        for number in range(30):
            save(tmp_path / "pets" / name / f"{number}.png", random.integers(0, 256, (12, 16, 3)))
    (tmp_path / "pets" / "cats" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "pets" / "notes.txt").write_text("x")
    (tmp_path / "pets" / ".cache").mkdir()
    return tmp_path / "pets"


def test_classes_are_folders_and_the_rest_is_told(folder):
    found, told = ImageFolder.find(folder)
    assert found.classes == ("cats", "dogs")
    assert len(found.files) == 60
    assert told == ["1 files are no images in the folder of a class: Thumbs.db."]
    assert found.look() == Look(12, 3)


def test_the_split_goes_by_name_and_seed(folder):
    task = image_folder(folder, size=12, validation=0.4)
    before = {path.name for path in task.validation.read.source.paths}
    assert 12 <= len(task.validation) <= 36
    assert len(task.train) + len(task.validation) == 60
    for number in range(30, 40):
        shutil.copy(folder / "cats" / "0.png", folder / "cats" / f"{number}.png")
    after = {path.name for path in image_folder(folder, size=12, validation=0.4).validation.read.source.paths}
    assert before <= after
    assert before != {
        p.name for p in image_folder(folder, size=12, validation=0.4, seed=1).validation.read.source.paths
    }


def test_folders_for_train_and_validation_are_taken_as_they_are(folder):
    parted = folder.parent / "parted"
    for part, name in (("train", "cats"), ("train", "dogs"), ("VAL", "dogs"), ("test", "cats")):
        shutil.copytree(folder / name, parted / part / name)
    task = image_folder(parted, size=12)
    assert [len(samples) for samples in (task.train, task.validation, task.test)] == [60, 30, 30]
    assert (next(task.validation.batches(64))[1] == 1).all(), "dogs are the second class in every part"
    save(parted / "VAL" / "birds" / "1.png", np.zeros((4, 4)))
    save(parted / "VAL" / "birds" / "2.png", np.zeros((4, 4)))
    with pytest.raises(DataError, match="Classes that train lacks: birds"):
        image_folder(parted, size=12)


def test_what_lies_beside_the_parts_is_no_class(folder):
    parted = folder.parent / "parted"
    for part in ("train", "val"):
        shutil.copytree(folder, parted / part)
    shutil.copytree(folder / "cats", parted / "checkpoints" / "shown")
    found, told = ImageFolder.find(parted)
    assert (found.classes, len(found.files)) == (("cats", "dogs"), 120)
    assert told[1] == "Folders beside those of the parts are left out: checkpoints."
    shutil.rmtree(parted / "val")
    assert ImageFolder.find(parted)[0].classes == ("cats", "dogs"), "train alone, with folders in it, is a part"
    shutil.copytree(folder / "dogs", parted / "valid" / "dogs")
    shutil.copytree(folder / "dogs", parted / "Validation" / "birds")
    with pytest.raises(DataError) as caught:
        ImageFolder.find(parted)
    told = [mistake.cause for mistake in caught.value.mistakes]
    assert told == [f"{parted} has Validation and valid, all for validation.", "Classes that train lacks: birds."]


def test_a_class_may_be_called_train(folder):
    (folder / "dogs").rename(folder / "train")
    assert ImageFolder.find(folder)[0].classes == ("cats", "train")


def test_pixels_are_resized_cut_and_normalized(tmp_path):
    pixels = np.zeros((20, 40, 3))
    pixels[:, 15:25] = (255, 0, 0)  # a red bar in the middle of a wide black image
    path = save(tmp_path / "bar.png", pixels)
    image, label = Images([path], [3], Look(10, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))[0]
    assert (image.shape, label) == ((3, 10, 10), 3)
    assert image[0, 5, 5] == 1
    assert image[1:].max() == -1
    assert image[0, 5, 0] == -1
    whole, _ = Images([path], [0], Look(20, mean=IMAGENET[0], std=IMAGENET[1]))[0]
    assert whole[0, 0, 10] == pytest.approx((1 - 0.485) / 0.229)
    closer, _ = Images([path], [0], Look(10, crop=0.5, mean=(0.0,), std=(1.0,)))[0]
    assert closer[0].mean() > image[0].mean(), "half of the shorter side is kept"
    grey, _ = Images([path], [0], Look(10, channels=1))[0]
    assert grey.shape == (1, 10, 10)


@pytest.mark.parametrize(
    ("ending", "kind"), [("png", np.uint16), ("tif", np.uint16), ("tif", ">u2"), ("pgm", np.int32)]
)
def test_all_bits_of_deep_grey_images_count(tmp_path, ending, kind):
    for name in "ab":
        for place in range(2):
            path = tmp_path / "deep" / name / f"{place}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.array([[0, 300], [2048, 4095]], kind)).save(path)
    look = ImageFolder.find(tmp_path / "deep")[0].look()
    assert (look.size, look.channels) == (2, 1)
    if ending != "pgm":  # which is stretched to 16 bits as it is written
        assert look == Look(2, 1, white=4095)
        assert look.read(path)[..., 0].tolist() == [[0, 19], [128, 255]]
        assert Look(2).read(path)[..., 2].tolist() == [[0, 1], [8, 16]], "as parts of all that 16 bits can be"
    assert len(np.unique(look.read(path))) == 4


def test_images_are_turned_as_the_camera_was_held(tmp_path):
    image = Image.fromarray(np.repeat([[0], [255]], 16, 0).repeat(16, 1).astype(np.uint8))  # white below
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned clockwise
    image.save(tmp_path / "held.jpg", exif=exif, quality=95)
    pixels = Look(16, 1).read(tmp_path / "held.jpg")[..., 0]
    assert pixels.shape == (16, 16)
    assert pixels[:, 0].min() > 250
    assert pixels[:, -1].max() < 5


def test_images_are_read_once_where_they_fit(folder, monkeypatch):
    found, _told = ImageFolder.find(folder)
    task = found.task(found.look())
    assert len(task.train.targets()) == len(task.train)
    first = next(task.train.batches(8))[0]
    monkeypatch.setattr(Look, "read", None)
    assert torch.equal(next(task.train.batches(8))[0], first)


def test_grey_images_stay_grey_and_unlike_sizes_are_brought_to_one(tmp_path):
    for name in "ab":
        for number in range(3):
            save(tmp_path / "grey" / name / f"{number}.png", np.zeros((20, 30 + number)))
    assert ImageFolder.find(tmp_path / "grey")[0].look() == Look(64, 1)


def test_what_cannot_be_read_is_named(folder):
    (folder / "cats" / "broken.jpg").write_bytes(b"no image")
    found, _told = ImageFolder.find(folder)
    with pytest.raises(DataError, match=r"1 files cannot be read as images: cats/broken\.jpg"):
        found.look()
    task = found.task(Look(12))
    with pytest.raises(DataError, match=r"broken\.jpg cannot be read"):
        list(task.train.batches()) + list(task.validation.batches())


def test_every_mistake_of_a_folder_is_told(tmp_path, folder, monkeypatch):
    with pytest.raises(DataError, match="no folder"):
        ImageFolder.find(tmp_path / "absent")
    save(tmp_path / "flat" / "1.png", np.zeros((4, 4)))
    with pytest.raises(DataError, match="holds 1 images, and no folders"):
        ImageFolder.find(tmp_path / "flat")
    save(tmp_path / "one" / "cats" / "1.png", np.zeros((4, 4)))
    with pytest.raises(DataError) as caught:
        ImageFolder.find(tmp_path / "one")
    assert [mistake.cause.split(" ")[0] for mistake in caught.value.mistakes] == [str(tmp_path / "one"), "Classes"]
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match="Pillow"):
        ImageFolder.find(folder)


@pytest.mark.parametrize(("size", "stages"), [(8, 1), (32, 3), (64, 4), (224, 6)])
def test_the_network_halves_the_image_until_little_is_left(size, stages):
    network = image_network(3, size, 5).eval()
    assert sum(getattr(layer, "stride", 1) == (2, 2) for layer in network) == stages
    assert network(torch.zeros(1, 3, size, size)).shape == (1, 5)
    assert sum(parameter.numel() for parameter in network.parameters()) < 4e6


def test_equal_pictures_stay_on_one_side(folder):
    for number in range(30):
        shutil.copy(folder / "cats" / f"{number}.png", folder / "cats" / f"{number} copy.png")
    task = image_folder(folder, size=12, validation=0.4)
    sides = [
        {p.stem.removesuffix(" copy") for p in part.read.source.paths if p.parent.name == "cats"}
        for part in (task.train, task.validation)
    ]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 30


def test_of_every_class_something_is_learned(folder):
    for seed in range(20):
        for name in ("owls", "rats"):
            shutil.rmtree(folder / name, ignore_errors=True)
            for number in range(2):
                save(folder / name / f"{seed}-{number}.png", np.full((12, 16, 3), 10 * number + seed))
        task = image_folder(folder, size=12, validation=0.4)
        assert set(task.train.read.source.targets) == {0, 1, 2, 3}


def test_broken_pictures_are_found_to_their_end_and_left_out(folder):
    whole = (folder / "cats" / "3.png").read_bytes()
    (folder / "cats" / "3.png").write_bytes(whole[: len(whole) // 2])
    (folder / "dogs" / "4.png").write_text("no picture")
    found, _ = ImageFolder.find(folder)
    assert found.broken() == ("cats/3.png", "dogs/4.png")
    task = image_folder(folder, size=12, leave_out=found.broken())
    assert len(task.train) + len(task.validation) == 58
