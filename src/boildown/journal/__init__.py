"""The journal: one SQLite file per run that remembers it, written by one process.

`journal.Journal` is the file, `rows` what it gives back, `keys` name candidates and measurements,
`runs` looks over the folders of many runs. Everything stored is plain JSON; nothing is unpickled.
"""

from boildown.journal.journal import Journal, readable
from boildown.journal.keys import candidate_key, hash_of, measurement_key
from boildown.journal.rows import AttemptRow, Ending, Look, Record
from boildown.journal.runs import HIDDEN, find_finished, find_measurement, resolve_run, run_folders, run_id

__all__ = [
    "HIDDEN",
    "AttemptRow",
    "Ending",
    "Journal",
    "Look",
    "Record",
    "candidate_key",
    "find_finished",
    "find_measurement",
    "hash_of",
    "measurement_key",
    "readable",
    "resolve_run",
    "run_folders",
    "run_id",
]
