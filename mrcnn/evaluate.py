"""The command `mrcnn evaluate`: average precision of a model, or of a result file."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mrcnn.cli.flags import parse, require_at_least, run
from mrcnn.errors import UserError
from mrcnn.inference.model_flags import ProgramFlags
from mrcnn.io.atomic import check_writable, write_json

if TYPE_CHECKING:
    from mrcnn.evaluation.evaluation import Evaluation, Protocol


@dataclass(frozen=True)
class EvaluateConfig(ProgramFlags):
    """Score a trained model, or a result file, on a data set: COCO's AP of boxes and masks."""

    weights: Path | None = None
    """Run folder (its best checkpoint, else its last), checkpoint file, detector of another
    framework, or name of a published model."""
    results: Path | None = None
    """COCO result file to score, instead of --weights."""
    data: Path | None = None
    """Folder with images and annotations, or a COCO file. A file that is not named val or test is
    divided, as for training."""
    images: Path | None = None
    """Folder of the images, if --data is a COCO file. If not set, it is found beside the file."""
    ground_truth: Path | None = None
    """COCO annotation file, instead of --data. It works with --results only."""
    split: Literal["train", "val"] = "val"
    """Split of the data set to score."""
    max_dets: int | None = None
    """Maximum detections per image. If not set: the model's, 100 for --results, 300 for LVIS."""
    protocol: Literal["coco", "lvis", "cityscapes"] = "coco"
    """Rules of the metrics. lvis needs mrcnn[eval]; cityscapes, for masks, --instance-ids."""
    instance_ids: Path | None = None
    """Folder of the files *_gtFine_instanceIds.png, for --protocol cityscapes."""
    batch_size: int = 1
    """Images per batch; only images padded to the same size share a batch."""
    image_ids: Path | None = None
    """File of image ids, one per line: evaluate these images only."""
    out: Path | None = None
    """COCO result file to write. If not set: coco_results_<split>.json beside the checkpoint."""
    backend: Literal["pycocotools", "hotcoco"] = "pycocotools"
    """Library that computes COCO's metrics. hotcoco is faster; pip install 'mrcnn[eval]'."""
    details: bool = False
    """Print all metrics, and those of each class by size."""
    errors: bool = False
    """Print the kinds of errors and the confused classes, as in the report of a run."""
    plots: Path | None = None
    """Figure of the errors to write (.png, .svg, .pdf), with precision-recall curves."""
    json: Path | None = None
    """JSON file to write with all metrics of all classes; with --errors also the errors."""
    device: str = "auto"
    """Device that runs the model: cpu, cuda, cuda:N, or auto for a GPU if there is one."""
    amp: bool = False
    """Compute in bfloat16 where that is safe: faster on GPUs since Ampere, with less memory."""
    workers: int = 0
    """Processes that read images."""

    def __post_init__(self) -> None:
        require_at_least(self, max_dets=1, batch_size=1, workers=0)
        if self.protocol == "cityscapes" and self.results and self.max_dets:
            raise UserError("--max-dets: the scores of Cityscapes have no limit; leave it out")
        if self.plots is not None and self.plots.suffix.lower() not in (".png", ".svg", ".pdf"):
            raise UserError(f"--plots {self.plots}: must end in .png, .svg or .pdf")
        if (self.weights is None) == (self.results is None):
            raise UserError("name either --weights, to detect, or --results, a file of detections")
        if self.weights is not None and (self.data is None or self.ground_truth is not None):
            raise UserError("--weights needs images: name --data, and no --ground-truth")
        if self.results is not None and (self.out, self.set, self.bgr) != (None, (), None):
            raise UserError("--out, --set and --bgr go with --weights: --results needs no model")


def main(argv: list[str] | None = None) -> None:
    """Evaluate, print the tables, and write the files that were asked for."""
    args = parse(EvaluateConfig, argv)
    from mrcnn.evaluation.evaluation import Protocol
    from mrcnn.evaluation.tables import format_metrics
    from mrcnn.reports.sections import save_error_figure

    protocol = Protocol(args.protocol, args.backend, args.instance_ids)
    if args.json:
        check_writable(args.json, mark=rb"\A\{\s*\"weights\": ")
    if args.plots:
        check_writable(args.plots, mark=b"[Mm]atplotlib")
    evaluation, results = _evaluate(args, protocol)
    print(format_metrics(evaluation.metrics, args.details))
    tree: dict[str, Any] = {"weights": args.weights, "ground_truth": evaluation.truth.source}
    tree |= {"results": results, "protocol": args.protocol, **evaluation.to_dict()}
    if args.errors or args.plots:
        print(f"\n{evaluation.errors}\n")
        tree["errors"] = evaluation.errors.to_dict()
    if args.plots:
        save_error_figure(args.plots, evaluation.errors)
        print(f"errors: {args.plots}")
    print(f"detections: {results}")
    if args.json:
        write_json(args.json, tree, indent=1)
        print(f"metrics: {args.json}")


def _evaluate(args: EvaluateConfig, protocol: Protocol) -> tuple[Evaluation, Path]:
    """Score a result file, or what a model detects; return the evaluation and the result file."""
    from mrcnn import checkpoints
    from mrcnn.cli.progress import ProgressLine
    from mrcnn.evaluation.evaluation import score
    from mrcnn.evaluation.result_files import read_results, unknown_categories
    from mrcnn.evaluation.truth import read_image_ids, read_truth
    from mrcnn.inference.load import load

    image_ids = read_image_ids(args.image_ids)
    if args.results is not None:
        dataset, truth = read_truth(
            args.data, args.ground_truth, args.split, image_ids, images=args.images
        )
        entries = read_results(args.results, truth)
        for note in (*dataset.notes, *unknown_categories(entries, truth)):
            print(note)
        return score(truth, entries, None, args.max_dets, protocol), args.results
    assert args.weights is not None
    limit = args.max_dets or (protocol.max_detections if args.protocol == "lvis" else None)
    predictor = load(args.weights, args.device, amp=args.amp, **args.fields(max_detections=limit))
    dataset, truth = read_truth(
        args.data, None, args.split, image_ids, predictor.config, args.images
    )
    for note in (*predictor.notes, *dataset.notes):
        print(note)
    folder = checkpoints.find(args.weights).parent if args.weights.exists() else Path()
    results = args.out or folder / f"coco_results_{args.split}.json"
    options: dict[str, Any] = {"batch_size": args.batch_size, "workers": args.workers}
    options |= {"results": results, "protocol": protocol, "truth": truth}
    with ProgressLine(every=5.0) as line:
        return predictor.evaluate(dataset, progress=line.images, **options), results


if __name__ == "__main__":
    sys.exit(run(main))
