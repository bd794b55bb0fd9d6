"""An artifact: the files that are deployed to one runtime, and one digest over them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from boildown import files

SHORT = 16
"""Digits of a hash that are enough to find a file by, and few beside a small network."""


def file_hash(path: Path, below: Path | None = None) -> str:
    """sha256 of a file; `below`: see `files.opened`. Raises OSError where it cannot be read."""
    with files.opened(path, below) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_changed(path: Path, sha256: str, below: Path | None = None) -> bool:
    """Whether a file is gone or has another hash. Raises StrangeFileError where it is no file; see `files.opened`."""
    try:
        return file_hash(path, below) != sha256
    except FileNotFoundError:
        return True


@dataclass(frozen=True)
class Artifact:
    """What is deployed to one runtime: files in a folder, which may hold other files too.

    name: the file to load, or the folder where a runtime loads one. files: the sha256 of every file by its path
    below the folder, with slashes. version: of the runtime that wrote it; empty where that is not known. content: the
    digest that the files had before it was written into them who made them; empty where nothing was.
    """

    runtime: str
    folder: Path
    name: str
    files: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    content: str = ""

    @classmethod
    def read(
        cls, runtime: str, path: Path, files: Iterable[Path] = (), *, version: str = "", content: str = ""
    ) -> Artifact:
        """The artifact of which `path` is loaded, with `files` below the same folder.

        Raises OSError where a file cannot be read, ValueError for one that lies elsewhere.
        """
        own = sorted(part for part in path.rglob("*") if part.is_file()) if path.is_dir() else [path]
        names = dict.fromkeys(part.relative_to(path.parent).as_posix() for part in (*own, *files))
        hashes = {name: file_hash(path.parent / name) for name in names}
        return cls(runtime, path.parent, path.name, hashes, version, content)

    @property
    def path(self) -> Path:
        """What the runtime loads."""
        return self.folder / self.name

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file, those that are loaded by name first."""
        return tuple(self.folder / name for name in self._names)

    @property
    def digest(self) -> str:
        """One sha256 over what computes: equal in every run that makes the same, whatever else the files tell."""
        return self.content or self.sha256

    @property
    def ran(self) -> tuple[str, str]:
        """What gives the same answers in the same time wherever it lies: what computes, and in which runtime."""
        return self.runtime, self.digest

    @cached_property
    def sha256(self) -> str:
        """One sha256 over the files: of a single one its own, of several that of what `sha256sum` lists of them.

        The list is sorted by name; where the folder lies has no part in it.
        """
        if len(self.files) == 1:
            return next(iter(self.files.values()))
        listed = "".join(f"{self.files[name]}  {name}\n" for name in sorted(self.files))
        return hashlib.sha256(listed.encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files together. Raises OSError where one is gone."""
        return sum(path.stat().st_size for path in self.paths)

    def changed(self, below: Path | None = None) -> list[Path]:
        """The files that are gone, or not what they were; `below`: see `files.opened`."""
        pairs = zip(self.paths, self._names, strict=True)
        return [path for path, name in pairs if is_changed(path, self.files[name], below)]

    def at(self, folder: Path) -> Artifact:
        """The same artifact, where its files lie in another folder."""
        return replace(self, folder=folder)

    def copy(self, folder: Path, below: Path | None = None) -> Artifact:
        """Copy the files into a new folder; `below`: see `files.opened`.

        What is loaded comes last: where it is, all of it is.
        """
        for name in reversed(self._names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            files.copy(self.folder / name, folder / name, below)
        return self.at(folder)

    def move(self, folder: Path) -> Artifact:
        """Move the files into a folder on the same disk, in place of those of that name; what is loaded comes last."""
        for name in reversed(self._names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).replace(folder / name)
        return self.at(folder)

    def to_json(self) -> dict[str, Any]:
        """Plain data; the folder is for who keeps it to say."""
        told = {"content": self.content} if self.content else {}
        return {"runtime": self.runtime, "version": self.version, "name": self.name, "files": dict(self.files), **told}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], folder: Path) -> Artifact:
        """The inverse of `to_json`. Raises ValueError for a name that leads out of the folder."""
        files = {str(name): str(sha256) for name, sha256 in data["files"].items()}
        name = str(data["name"])
        for inside in (name, *files):
            if not inside or "\\" in inside or "\0" in inside or _leads_out(PurePosixPath(inside)):
                raise ValueError(f"{inside!r} names no file of an artifact")
        return cls(str(data["runtime"]), folder, name, files, str(data["version"]), str(data.get("content", "")))

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(sorted(self.files, key=lambda name: (name.partition("/")[0] != self.name, name)))


def _leads_out(path: PurePosixPath) -> bool:
    return path.is_absolute() or ".." in path.parts
