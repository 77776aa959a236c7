"""What is left of a study whose records are there in part."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TypeVar

from agent.errors import BadInputError
from agent.storage.atomic import atomic_write
from agent.study.exposures import StudyColumn
from agent.study.plans import Planned
from agent.study.records import CalibrationRecord, Key, ScoreRecord
from instrument.models import Record

_Record = TypeVar("_Record", bound=Record)
Kind = type[CalibrationRecord] | type[ScoreRecord]


def read_records(path: Path | None, kind: type[_Record]) -> list[_Record]:
    """The records that a study has written so far; none where there is no file.

    Args:
        path: of the records.
        kind: of the study.

    Raises:
        BadInputError: no file is named, or it holds something else.
    """
    if path is None:
        msg = "--resume needs --json OUT, the file with the records of the study to go on with"
        raise BadInputError(msg)
    if not path.exists():
        return []
    try:
        return [kind.model_validate(each) for each in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:  # pydantic's and json's are ValueErrors
        msg = f"--resume: {path} does not hold the records of such a study; leave --resume out to begin it anew"
        raise BadInputError(msg) from error


def write_records(path: Path | None, records: Sequence[Record]) -> None:
    """Replace a file of records as a whole; nothing where none is wanted.

    Args:
        path: of the file.
        records: all that there are.
    """
    if path is not None:
        listed = [record.model_dump(mode="json") for record in records]
        atomic_write(path, json.dumps(listed, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def what_is_left(planned: Sequence[Planned], column: StudyColumn, kind: Kind, done: Collection[Key]) -> list[Planned]:
    """The acquisitions of a column that have no record yet.

    One that is not recorded itself, since others only begin with what it taught, is repeated where any of them is left.

    Args:
        planned: all of the column.
        column: with which they are made.
        kind: of the study.
        done: keys of the records that are there.
    """
    left = [each for each in planned if not kind.records(each) or kind.asked(column, each).key not in done]
    return left if any(kind.records(each) for each in left) else []
