"""Table of published checkpoints: URL, licence, digest and published AP."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Published:
    """A file of weights on the web.

    AP is in percent, averaged over IoU 0.50 to 0.95 on the validation images, as `source` states
    it, or None. The digests are the first hexadecimal digits, as in the file
    name.
    """

    url: str
    about: str
    licence: str
    source: str
    box_ap: float | None = None
    mask_ap: float | None = None
    sha256: str | None = None
    md5: str | None = None


def _read_table() -> dict[str, Published]:
    """Read published.json.

    Sources: the weights enums of torchvision 0.29, Detectron2's model_zoo.py and MODEL_ZOO.md, and
    MMDetection's configs/mask_rcnn/metafile.yml.
    """
    groups = json.loads(Path(__file__).with_name("published.json").read_text())
    return {
        f"{group}/{name}": Published(
            url=shared["base"] + entry.pop("file"),
            licence=shared["licence"],
            source=shared["source"],
            **entry,
        )
        for group, shared in groups.items()
        for name, entry in shared["files"].items()
    }


PUBLISHED = _read_table()
