"""Checks of the data of a run: targets to learn, and changes since the run was started."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

import torch
from torch import Tensor

from mrcnn.config import ModelConfig
from mrcnn.data.coco.read import CocoDataset
from mrcnn.errors import UserError

_SHOWN = 5  # classes in a message


def check_targets(splits: Mapping[str, CocoDataset]) -> list[str]:
    """Refuse training images without targets; return notes on what is not learned or measured.

    Raises:
        UserError: if a split has no images, or the training images have no targets.
    """
    notes = []
    for name, result in (("train", "learned"), ("val", "measured")):
        dataset = splits[name]
        file, crowds = dataset.annotations, int(dataset.crowd.sum())
        if not len(dataset):
            purpose = "train" if name == "train" else "validate"
            raise UserError(f"{file}: holds no images to {purpose} on")
        total, fix = len(dataset.labels), "set iscrowd to 0 where it is one object"
        if crowds == total:
            text = f"{file}: the {len(dataset)} images for {name} have no objects to be {result}: "
            text += f"{crowds} crowd regions; {fix}" if crowds else "no annotations"
            if name == "train":
                raise UserError(text if crowds else f"{text}; annotate some, or check --data")
            notes.append(f"{text}. AP cannot be measured")
            continue
        if crowds:
            share = f"{crowds} of {total} annotations for {name} are crowd regions"
            notes.append(f"{file}: {share}, which are not {result}; {fix}")
        counts = torch.bincount(dataset.labels[~dataset.crowd], minlength=len(dataset.class_names))
        if unused := torch.nonzero(counts == 0).flatten().tolist():
            names = _listed([dataset.class_names[label] for label in unused])
            share = f"{len(unused)} of {len(counts)} classes"
            notes.append(f"{file}: no objects for {name} of {share}, not {result}: {names}")
    return notes


def check_classes(folder: Path, model: ModelConfig, dataset: CocoDataset) -> None:
    """Refuse to resume the run in `folder` with other classes than its model was trained for.

    Raises:
        UserError: if names, order, category ids or number of the classes differ, with what differs.
    """
    then, now = (
        list(zip(source.class_names, source.category_ids, strict=True))
        for source in (model, dataset)
    )
    if then == now:
        return
    if len(then) != len(now):
        kind = f"the run has {len(then)} classes, the data have {len(now)}"
    elif [name for name, _ in then] == [name for name, _ in now]:
        kind = "the category ids differ"
    elif {name for name, _ in then} == {name for name, _ in now}:
        kind = "the order of the classes differs"
    else:
        kind = "the names of the classes differ"
    changes = [
        f"class {label} was {_class(a)}, is now {_class(b)}"
        for label, (a, b) in enumerate(zip_longest(then, now))
        if a != b
    ]
    raise UserError(
        f"--resume {folder}: does not fit the data in {dataset.annotations}: {kind}.\n"
        f"{_listed(changes)}\n"
        f"Restore the categories of the data, or start a new run with --weights {folder}"
    )


def image_digests(dataset: CocoDataset) -> Tensor:
    """Return (N,) int64 digests of the images: name, size, and objects with their masks."""
    masks = dataset.masks
    names, sizes = dataset.names.numpy(), dataset.sizes.numpy()
    parts = (dataset.boxes.numpy(), dataset.labels.numpy(), dataset.crowd.numpy())
    points, counts = masks.points.numpy(), masks.counts.numpy()
    first_name, first = dataset.name_start.tolist(), dataset.start.tolist()
    first_point = masks.ring_start[masks.instance_ring][dataset.start].tolist()
    first_count = masks.instance_count[dataset.start].tolist()
    digests = bytearray()
    for i in range(len(dataset)):
        digest = hashlib.blake2b(names[first_name[i] : first_name[i + 1]].tobytes(), digest_size=8)
        digest.update(sizes[i].tobytes())
        for part in parts:
            digest.update(part[first[i] : first[i + 1]].tobytes())
        digest.update(points[first_point[i] : first_point[i + 1]].tobytes())
        digest.update(counts[first_count[i] : first_count[i + 1]].tobytes())
        digests += digest.digest()
    return torch.frombuffer(digests, dtype=torch.int64).clone()


def data_changes(dataset: CocoDataset, before: Tensor) -> list[str]:
    """Return a note if the images or objects are not those with the digests `before` (M,)."""
    now = image_digests(dataset).tolist()
    then = before.tolist()
    if now == then:
        return []
    known, left = set(then), len(set(then) - set(now))
    new = [index for index, digest in enumerate(now) if digest not in known]
    what = [
        *([f"{len(new)} of {len(now)} images are new or changed"] if new else ()),
        *([f"the first is {dataset.path(new[0])}"] if new else ()),
        *([f"{left} of the {len(then)} images before are gone or changed"] if left else ()),
    ]
    return [
        f"{dataset.annotations}: differs from the data of the run so far: "
        f"{', '.join(what) or 'other order of images'}. The run continues with the data as they "
        "are now, and will not be bit-identical"
    ]


def _class(value: tuple[str, int] | None) -> str:
    return "absent" if value is None else f"{value[0]!r} (id {value[1]})"


def _listed(texts: Sequence[str]) -> str:
    rest = len(texts) - _SHOWN
    return ", ".join(texts[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
