"""An artifact is its files: one digest over them, wherever they lie."""

from __future__ import annotations

import hashlib
import subprocess

import pytest

from boildown.domain.artifact import Artifact


@pytest.fixture
def pair(tmp_path):
    """A topology, and weights in a folder below it."""
    folder = tmp_path / "made"
    (folder / "w").mkdir(parents=True)
    (folder / "model.xml").write_text("<net/>")
    (folder / "w" / "0.bin").write_bytes(b"weights")
    (folder / "notes.txt").write_text("not of it")
    return Artifact.read("pair", folder / "model.xml", [folder / "w" / "0.bin"], version="pair 1")


def test_of_one_file_the_digest_is_its_own(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"abc")
    artifact = Artifact.read("onnxruntime", tmp_path / "model.onnx")
    assert artifact.digest == hashlib.sha256(b"abc").hexdigest()
    assert (artifact.path, artifact.size) == (tmp_path / "model.onnx", 3)


def test_of_several_it_is_that_of_what_sha256sum_lists(pair):
    listed = subprocess.run(
        ["sha256sum", "model.xml", "w/0.bin"], cwd=pair.folder, capture_output=True, check=True
    ).stdout
    assert pair.digest == hashlib.sha256(listed).hexdigest()
    assert pair.size == 13


def test_every_file_counts_and_the_place_does_not(pair, tmp_path):
    copy = pair.copy(tmp_path / "copy")
    assert (copy.digest, copy.changed(), copy.name) == (pair.digest, [], pair.name)
    assert sorted(path.name for path in copy.folder.rglob("*")) == ["0.bin", "model.xml", "w"]
    (copy.folder / "w" / "0.bin").write_bytes(b"other weights")
    again = Artifact.read("pair", copy.path, copy.paths)
    assert again.digest != pair.digest
    assert copy.changed() == [copy.folder / "w" / "0.bin"]


def test_what_was_moved_is_whole_and_gone_from_where_it_was(pair, tmp_path):
    moved = pair.move(tmp_path / "moved")
    assert moved.changed() == []
    assert set(pair.changed()) == set(pair.paths)
    (moved.path).unlink()
    assert moved.changed() == [moved.path]


def test_a_folder_may_be_what_is_loaded(tmp_path):
    package = tmp_path / "model.package"
    (package / "data").mkdir(parents=True)
    (package / "data" / "weights").write_bytes(b"1")
    (package / "manifest").write_bytes(b"22")
    artifact = Artifact.read("packages", package)
    assert set(artifact.files) == {"model.package/data/weights", "model.package/manifest"}
    assert artifact.size == 3
    assert artifact.copy(tmp_path / "copy").changed() == []


def test_it_survives_as_plain_data(pair):
    assert Artifact.from_json(pair.to_json(), pair.folder) == pair


@pytest.mark.parametrize("name", ["../model.xml", "/etc/passwd", "w/../../0.bin", "", "w\\0.bin", "a\0b"])
def test_names_that_lead_out_of_the_folder_are_none(pair, name):
    data = {**pair.to_json(), "files": {"model.xml": "a" * 64, name: "b" * 64}}
    with pytest.raises(ValueError, match="names no file"):
        Artifact.from_json(data, pair.folder)
