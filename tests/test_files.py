"""Files in folders that others may have filled."""

from __future__ import annotations

import os

import pytest

from boildown import files
from boildown.errors import InputError, StrangeFileError

posix = pytest.mark.skipif(os.name == "nt", reason="links need a right there, and pipes do not exist")


@pytest.fixture
def mine(tmp_path):
    """A file elsewhere that nobody may touch."""
    path = tmp_path / "mine" / "thesis.txt"
    path.parent.mkdir()
    path.write_text("three years of work")
    yield path
    assert path.read_text() == "three years of work"
    assert list(path.parent.iterdir()) == [path]


@posix
@pytest.mark.parametrize("what", ["link", "pipe", "device", "folder", "way"])
def test_only_files_are_opened_and_never_behind_a_link(tmp_path, mine, what):
    run = tmp_path / "run"
    run.mkdir()
    path = run / "best" / "load.py"
    path.parent.mkdir() if what != "way" else path.parent.symlink_to(mine.parent)
    if what == "link":
        path.symlink_to(mine)
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "folder":
        path.mkdir()
    else:
        path = path.with_name(mine.name)
    with pytest.raises(StrangeFileError, match=" is a "):
        files.opened(path, run)
    if what in ("link", "way"):
        with files.opened(path) as file:
            assert file.read() == b"three years of work", "the user's own links are followed"
    else:
        with pytest.raises((StrangeFileError, IsADirectoryError)):
            files.opened(path)


@posix
def test_a_name_that_leads_out_is_refused(tmp_path, mine):
    run = tmp_path / "run"
    run.mkdir()
    for path in (run / ".." / "mine" / "thesis.txt", mine):
        with pytest.raises(StrangeFileError, match="outside"):
            files.opened(path, run)


@posix
def test_what_is_written_replaces_links_and_not_what_is_behind(tmp_path, mine):
    path = tmp_path / "report.html"
    path.symlink_to(mine)
    (tmp_path / "new-report.html").symlink_to(mine)
    files.replace(path, "a report")
    assert (path.read_text(), path.is_symlink()) == ("a report", False)
    (tmp_path / "folder").symlink_to(mine.parent)
    files.remove(tmp_path / "folder")
    assert not os.path.lexists(tmp_path / "folder")


@posix
def test_a_walk_meets_files_alone(tmp_path, mine):
    (tmp_path / "run" / "a" / "b").mkdir(parents=True)
    (tmp_path / "run" / "a" / "b" / "c.txt").touch()
    (tmp_path / "run" / "d.txt").touch()
    assert [path.name for path in files.walk(tmp_path / "run")] == ["d.txt", "c.txt"]
    assert list(files.walk(tmp_path / "none")) == []
    (tmp_path / "run" / "a" / "b" / "link").symlink_to(mine)
    for names in (["a"], ["d", "a"]):
        with pytest.raises(InputError, match="link is a link"):
            files.survey(tmp_path / "run", names)
    files.survey(tmp_path / "run", ["d"])


@posix
def test_endless_files_are_refused(tmp_path):
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(1 << 42)
    with pytest.raises(StrangeFileError, match=r"claims 4,398\.0 GB"):
        files.opened(path, tmp_path)
    path.write_bytes(b"x" * 100)
    assert files.read_text(path) == "x" * 100
    with pytest.raises(StrangeFileError, match="larger than"):
        files.read_text(path, most=99)


@posix
def test_a_file_with_a_second_name_is_not_written_in_place(tmp_path, mine):
    os.link(mine, tmp_path / "journal.lock")
    with pytest.raises(StrangeFileError, match="2 names"):
        files.own(tmp_path / "journal.lock")
    files.own(tmp_path / "none")
