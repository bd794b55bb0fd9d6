"""The tree of errors. Every message is a cause and a cure.

BoildownError
├── InputError              the user's input is wrong; carries every mistake at once (exit code 2)
│   ├── TargetError         a condition cannot be read, or conditions contradict each other
│   ├── ConfigError         boildown.toml is wrong
│   ├── DataError           the data cannot be judged on: shape, labels, NaN, augmentation
│   ├── ModelError          the model cannot be used: weights, NaN, export
│   ├── UntrustedFileError  a file that could execute code, without explicit trust
│   └── StrangeFileError    a link, a pipe or the like where a file of boildown's should lie
├── AttemptError            one attempt failed; the run goes on (each carries a short name)
│   ├── ExportError         a candidate could not be turned into an artifact
│   ├── ParityError         the artifact and the model disagree
│   └── DeadlineError       the attempt ran past its limit
│       └── BudgetError     the budget of the whole run is spent
├── WorkerLost              a child process died; the work is tried again
├── JournalError            the journal cannot be opened, is locked, or is of a newer version
└── Cancelled               the user asked to stop; the run can be resumed
"""

from __future__ import annotations

import errno
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Mistake:
    """One thing wrong with the input, and what to do about it."""

    cause: str
    cure: str

    def __str__(self) -> str:
        return f"{self.cause}\n  {self.cure}" if self.cure else self.cause


class BoildownError(Exception):
    """Base of all errors boildown raises on purpose."""


class InputError(BoildownError):
    """The user's input is wrong. `mistakes` holds all of them, each with its cure."""

    def __init__(self, *mistakes: Mistake) -> None:
        self.mistakes: tuple[Mistake, ...] = mistakes
        super().__init__("\n".join(str(mistake) for mistake in mistakes))

    @classmethod
    def of(cls, cause: str, cure: str) -> Self:
        """The error for a single mistake."""
        return cls(Mistake(cause, cure))

    @staticmethod
    def merge(errors: Iterable[InputError]) -> InputError:
        """One error with the mistakes of all, of their class where they share it."""
        found = list(errors)
        kinds = {type(error) for error in found}
        kind = kinds.pop() if len(kinds) == 1 else InputError
        return kind(*(mistake for error in found for mistake in error.mistakes))

    def __reduce__(self) -> tuple[type[InputError], tuple[Mistake, ...]]:
        return type(self), self.mistakes


class Mistakes:
    """Collects input errors, so that all of them are told at once: `with mistakes: ...` around each step."""

    def __init__(self) -> None:
        self._errors: list[InputError] = []

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> bool:
        if isinstance(error, InputError):
            self._errors.append(error)
            return True
        return False

    def raise_all(self) -> None:
        """Raise one error with everything collected, if there is anything."""
        if self._errors:
            raise InputError.merge(self._errors)


class TargetError(InputError):
    """A condition cannot be read, or conditions contradict each other."""


class ConfigError(InputError):
    """The configuration file is wrong."""


class DataError(InputError):
    """The data cannot be judged on."""


class ModelError(InputError):
    """The model cannot be used."""


class UntrustedFileError(InputError):
    """The file could execute code when loaded and was not explicitly trusted."""


class StrangeFileError(InputError, OSError):
    """What lies where a file or a folder of boildown's should is something else."""


class AttemptError(BoildownError):
    """One attempt failed. `name` is a short stable word for the journal."""

    name = "failed"


class ExportError(AttemptError):
    """A candidate could not be turned into an artifact."""

    name = "export failed"


class ParityError(AttemptError):
    """The artifact's outputs disagree with the model's."""

    name = "artifact disagrees"


class DeadlineError(AttemptError):
    """The attempt ran past its time limit."""

    name = "out of time"


class BudgetError(DeadlineError):
    """The budget of the whole run is spent."""


class WorkerLost(BoildownError):
    """A child process died before it answered. `details`: the last lines that it printed."""

    def __init__(self, message: str, details: str = "") -> None:
        self.details = details
        super().__init__(message)

    def __reduce__(self) -> tuple[type[WorkerLost], tuple[str, str]]:
        return type(self), (str(self), self.details)


class JournalError(BoildownError):
    """The journal cannot be used."""


class Cancelled(BoildownError):
    """The user asked to stop."""


@contextmanager
def contained() -> Iterator[None]:
    """Code of the user's inside cannot end the program: `sys.exit` and its like become an InputError that says where.

    Ctrl-C still does. A path that no file system takes becomes an InputError too.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise InputError.of(f"The path {shortened(error.filename)} is too long.", "Give a shorter one.") from error
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise InputError.of(
            f"{_place(error)} would have ended the program: {error!r}.",
            "Let it return, or raise an exception that says what is wrong.",
        ) from error


_LONGEST, _SHOWN = 500, 120
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


def _place(error: BaseException) -> str:
    """The innermost line of the user's own code that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith((*_LIBRARIES, str(Path(__file__).parent), "<frozen"))]
    frame = (own or frames)[-1]
    return f"{frame.filename}, line {frame.lineno}, in {frame.name},"


def text_of(error: BaseException) -> str:
    """What an error says; nothing where it cannot be asked: an error of the user's may fail even at this."""
    try:
        return str(error).strip()
    except Exception:  # noqa: BLE001 - as above
        return ""


def in_words(error: BaseException) -> str:
    """The kind of an error and the first line of what it says; of boildown's own only the line."""
    line = text_of(error).partition("\n")[0].rstrip()
    if not line:
        return type(error).__name__
    line = line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
    return line if isinstance(error, BoildownError) else f"{type(error).__name__}: {line}"


def shortened(text: object) -> str:
    """A name as it is shown in a message: the beginning of one that fills the screen."""
    shown = str(text)
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 3]}... ({len(shown):,} characters)"


def install(extra: str) -> str:
    """The command that adds an extra to this installation: to the checkout where boildown runs from one."""
    checkout = Path(__file__).parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "constraints.txt").is_file():
        return f'pip install -c "{checkout / "constraints.txt"}" -e "{checkout}[{extra}]"'
    return f'pip install "boildown[{extra}]"'


def disk_is_full(error: Exception) -> bool:
    """Whether an error says that the disk is full: here, in a child process or in a library that wraps it."""
    return getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in text_of(error)
