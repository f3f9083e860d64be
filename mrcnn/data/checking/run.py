"""All checks of a data set in one pass over its images, by several processes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mrcnn.data.checking.findings import Finding, Told
from mrcnn.data.checking.reading import read_what_can
from mrcnn.data.checking.records import Reading
from mrcnn.data.checking.samples import Sample, Samples
from mrcnn.data.checking.set_checks import Seen, Whole
from mrcnn.data.checking.table import OF_SAMPLES, OF_SETS
from mrcnn.data.formats import Split, find_splits
from mrcnn.data.problems import DatasetError, Problems
from mrcnn.errors import UserError

_CHUNK = 8  # images that a process is given at a time
_FEW = 32  # images that are not worth a process


@dataclass(frozen=True)
class Figures:
    """What one image has: its objects, crowds left out."""

    split: str
    size: tuple[int, int]  # (height, width)
    labels: NDArray[np.int64]  # (G,)
    areas: NDArray[np.float64]  # (G,) pixels of the masks
    boxes: NDArray[np.float64]  # (G, 4) xyxy
    crowds: int


@dataclass
class Checked:
    """A data set and all that was found."""

    folder: Path
    readings: list[Reading]
    findings: list[Finding] = field(default_factory=list)
    images: list[Figures] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the first split that could be read."""
        return next((r.dataset.class_names for r in self.readings if r.dataset is not None), ())


def read_all(folder: Path) -> Checked:
    """Read every split of a folder as far as it goes.

    Raises:
        UserError: if nothing in the folder can be read.
    """
    problems = Problems(folder)
    splits = _distinct(find_splits(folder, (), problems=problems))
    checked = Checked(folder, [])
    refused: list[UserError] = []
    names: Sequence[str] = ()
    ids: Sequence[int] = ()
    for name, split in splits.items():
        try:
            reading = read_what_can(name, split, names, ids)
        except UserError as error:
            refused.append(error)
            lines = error.problems if isinstance(error, DatasetError) else [str(error)]
            checked.findings += (_of_file(name, str(split.annotations), line) for line in lines)
            continue
        checked.readings.append(reading)
        checked.notes += [split.note] if split.note else []
        if reading.dataset is not None:
            checked.notes += reading.dataset.notes
            if not names:
                names, ids = reading.dataset.class_names, reading.dataset.category_ids
    if not checked.readings:
        problems.raise_any()
        raise UserError("\n".join(map(str, refused)))
    checked.findings += (_of_file("", str(folder), line) for line in problems.lines)
    for reading in checked.readings:
        checked.findings += reading.findings
    checked.notes = list(dict.fromkeys(checked.notes))
    return checked


def check(checked: Checked, workers: int, progress: Callable[[int], None]) -> None:
    """Run all checks on what was read, and note what they find.

    Args:
        workers: processes; 0 works in this one.
        progress: told how many images are done.
    Raises:
        UserError: if a process dies.
    """
    seen: list[Seen] = []
    for done, (findings, one, figures) in enumerate(_pass(checked.readings, workers), start=1):
        checked.findings += findings
        checked.images.append(figures)
        seen.append(one)
        progress(done)
    whole = Whole(checked.folder, checked.readings, seen)
    file_of = {r.name: str(r.split.annotations) for r in checked.readings}
    for kind, (severity, find, _) in OF_SETS.items():
        for told in find(whole):
            file = file_of.get(told.split, str(checked.folder))
            checked.findings.append(_finding(severity, kind, told.split, file, told))


Result = tuple[list[Finding], Seen, Figures]


def look(samples: Samples, name: str, index: int) -> Result:
    """Everything about one image of the split `name`."""
    sample = samples.read(index)
    file = str(samples.dataset.annotations)
    findings = [
        _finding(severity, kind, name, file, told)
        for kind, (severity, find, _) in OF_SAMPLES.items()
        for told in find(sample)
    ]
    stored = sample.file
    seen = Seen(name, sample.place, sample.id, sample.path, stored.content, stored.pixels)
    return findings, seen, _figures(sample, name)


def _distinct(splits: dict[str, Split]) -> dict[str, Split]:
    """The splits; "all" where one serves for both."""
    train, val = splits.get("train"), splits.get("val")
    if train and val and train.annotations == val.annotations:
        if train.content is None or val.content is None:
            return {"all": train}
        if train.content.images == val.content.images:
            return {"all": train}
    return splits


def _of_file(split: str, file: str, line: str) -> Finding:
    return Finding("error", "file", split, file, None, None, line)


def _finding(severity: str, kind: str, split: str, file: str, told: Told) -> Finding:
    return Finding(severity, kind, split, file, told.image, told.annotation, told.sentence())


def _figures(sample: Sample, name: str) -> Figures:
    objects = [one for one in sample.objects if not one.crowd]
    return Figures(
        name,
        sample.size,
        np.array([one.label for one in objects], np.int64),
        np.array([one.area for one in objects], np.float64),
        np.array([one.box for one in objects], np.float64).reshape(-1, 4),
        len(sample.objects) - len(objects),
    )


def _pass(readings: Sequence[Reading], workers: int) -> Iterator[Result]:
    """What is told of every image, in order."""
    of_splits = {r.name: Samples(r) for r in readings if r.dataset is not None}
    keys = [(name, i) for name, samples in of_splits.items() for i in range(len(samples))]
    if workers == 0 or len(keys) <= _FEW:
        for name, i in keys:
            yield look(of_splits[name], name, i)
        return
    chunks = [keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK)]
    pool = ProcessPoolExecutor(workers, initializer=_begin, initargs=(of_splits,))
    try:
        waiting: list[Future[list[Result]]] = [pool.submit(_look_at, chunk) for chunk in chunks]
        for future in waiting:
            yield from future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "check-data: a process died, likely for want of memory; lower --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_samples: dict[str, Samples] = {}  # of the process


def _begin(of_splits: dict[str, Samples]) -> None:
    """Make a process ready; a signal of the terminal is for the one that asked."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _samples.update(of_splits)


def _look_at(keys: Sequence[tuple[str, int]]) -> list[Result]:
    return [look(_samples[name], name, i) for name, i in keys]
