"""The result of an evaluation: metrics, the data they were computed from, and the errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mrcnn.data.coco.truth import Record
from mrcnn.errors import UserError
from mrcnn.evaluation import cityscapes, lvis
from mrcnn.evaluation.coco import Backend, Kind, coco_metrics
from mrcnn.evaluation.errors import ErrorAnalysis, find_errors
from mrcnn.evaluation.result_files import kinds_of
from mrcnn.evaluation.tables import format_metrics, metrics_tree
from mrcnn.evaluation.truth import GroundTruth

ProtocolName = Literal["coco", "lvis", "cityscapes"]


@dataclass(frozen=True)
class Protocol:
    """Rules by which metrics are computed."""

    name: ProtocolName = "coco"
    backend: Backend = "pycocotools"  # for COCO only
    instance_ids: Path | None = None  # for Cityscapes: the folder of *_gtFine_instanceIds.png

    def __post_init__(self) -> None:
        if self.name != "coco" and self.backend != "pycocotools":
            raise UserError(f"--backend {self.backend}: goes with --protocol coco only")
        if (self.instance_ids is not None) != (self.name == "cityscapes"):
            raise UserError("--instance-ids, the folder gtFine, goes with --protocol cityscapes")

    @property
    def max_detections(self) -> int | None:
        """Default limit: per image and class; for LVIS per image; None means no limit."""
        return {"coco": 100, "lvis": lvis.MAX_DETECTIONS, "cityscapes": None}[self.name]

    def check(self, truth: GroundTruth) -> None:
        """Raise UserError unless the protocol can be applied to the ground truth."""
        if self.name == "lvis":
            lvis.check_lvis(truth)
        if self.instance_ids is not None:
            cityscapes.check_cityscapes(truth, self.instance_ids)

    def metrics(
        self, truth: GroundTruth, entries: Sequence[Record], kind: Kind, limit: int | None
    ) -> dict[str, float]:
        """Compute the metrics of boxes or masks, with the names of `coco_metrics`."""
        if self.instance_ids is not None:
            return cityscapes.cityscapes_metrics(truth, entries, self.instance_ids)
        assert limit is not None
        if self.name == "lvis":
            return lvis.lvis_metrics(truth, entries, kind, limit)
        return coco_metrics(truth, entries, kind, limit, self.backend)


COCO = Protocol()


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Detections on a data set, scored against its ground truth.

    `metrics` holds bbox_AP, … and segm_AP, … with the names of `coco_metrics`, and "images", their
    number. If the protocol has a limit, it also holds "max_detections", and "images_at_limit", the
    number of images with that many detections. -1 means that there is nothing to measure it on.

    In processes other than the main one, only `metrics` is filled in.

    Example:
        >>> evaluation = mrcnn.load("runs/1").evaluate("DIR")
        >>> print(evaluation)
        >>> evaluation.metrics["segm_AP"], evaluation.errors.objects["missed"]
    """

    metrics: dict[str, float]
    truth: GroundTruth
    entries: list[Record] = field(default_factory=list)  # detections of the images of `truth`
    kinds: tuple[Kind, ...] = ()  # those scored, of "bbox" and "segm"
    protocol: Protocol = COCO

    @cached_property
    def errors(self) -> ErrorAnalysis:
        """Kinds of errors: of masks if there are any, else of boxes."""
        limit = int(self.metrics.get("max_detections", max(len(self.entries), 1)))
        return find_errors(self.truth, self.entries, self.kinds[-1], limit)

    def __str__(self) -> str:
        return format_metrics(self.metrics)

    def to_dict(self) -> dict[str, Any]:
        """Return all metrics for JSON; None replaces -1."""
        return metrics_tree(self.metrics)


def score(
    truth: GroundTruth,
    entries: Sequence[Record],
    kinds: Sequence[Kind] | None = None,
    max_detections: int | None = None,
    protocol: Protocol = COCO,
) -> Evaluation:
    """Score detections.

    Args:
        truth: Annotations of the images that count.
        entries: Checked entries of a result file. Those of other images are left out.
        kinds: "bbox", "segm" or both. By default those that all entries have. Cityscapes scores
            masks only.
        max_detections: Limit of detections; by default that of the protocol. Cityscapes has no
            limit: there the number is used only to count the images that reach it.
        protocol: Rules of the metrics.

    Raises:
        UserError: If the protocol does not fit the data, or its library is not installed.
    """
    kinds = kinds_of(entries) if kinds is None else tuple(kinds)
    if protocol.name == "cityscapes":
        if "segm" not in kinds:
            raise UserError("--protocol cityscapes scores masks; the detections have boxes only")
        kinds = ("segm",)
    protocol.check(truth)
    image_ids = set(truth.image_ids)
    entries = [entry for entry in entries if entry["image_id"] in image_ids]
    limit = max_detections or protocol.max_detections
    metrics: dict[str, float] = {}
    for kind in kinds:
        values = protocol.metrics(truth, entries, kind, limit)
        metrics |= {f"{kind}_{name}": value for name, value in values.items()}
    metrics["images"] = len(image_ids)
    if limit is not None:
        counts = Counter(entry["image_id"] for entry in entries)
        at_limit = sum(count >= limit for count in counts.values())
        metrics |= {"max_detections": limit, "images_at_limit": at_limit}
    return Evaluation(metrics, truth, entries, kinds, protocol)
