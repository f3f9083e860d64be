"""One training run: steps, evaluations, saved states, and what it leaves in its folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from mrcnn import checkpoints
from mrcnn.data.coco import CocoDataset
from mrcnn.data.loader import TrainBatch, train_loader
from mrcnn.data.transforms import Augmentation
from mrcnn.errors import UserError
from mrcnn.evaluate import evaluate
from mrcnn.files import replacing
from mrcnn.models import MaskRCNN
from mrcnn.predictor import Predictor
from mrcnn.progress import ProgressLine
from mrcnn.report import write_report
from mrcnn.score_tables import format_metrics
from mrcnn.training.config import TrainConfig
from mrcnn.training.distributed import World, distribute
from mrcnn.training.less_memory import checkpoint_stages
from mrcnn.training.loggers import Logger, TensorBoard
from mrcnn.training.loop import StepRecord, is_out_of_memory, train_steps
from mrcnn.training.resume import restore, snapshot
from mrcnn.training.run_folder import (
    RESULTS,
    TIMING,
    append_row,
    cut_tables,
    environment,
    format_progress,
    results_row,
    timing_row,
)
from mrcnn.training.solver import Ema, learning_rate, make_optimizer
from mrcnn.training.state import TrainingState, save_state
from mrcnn.training.step import TrainStep
from mrcnn.training.stop import StopRequest
from mrcnn.training.validation import evaluated_weights, validation_loss
from mrcnn.visual import curves, draw_targets, mosaic

PICTURES = 9  # images on a sheet


class Stopped(Exception):  # noqa: N818  it is no error
    """An evaluation that a signal cut short."""


class Run:
    """A run and what it leaves in its folder.

    Args:
        args: with `steps`, `warmup` and `lr` set.
        folder: exists; only the main process writes there.
        loggers: who else is told of the figures.
    """

    def __init__(
        self,
        args: TrainConfig,
        predictor: Predictor,
        splits: dict[str, CocoDataset],
        folder: Path,
        world: World,
        augmentation: Augmentation,
        loggers: tuple[Logger, ...] = (),
    ) -> None:
        assert args.steps is not None
        assert args.lr is not None
        assert args.warmup is not None
        assert isinstance(predictor.model, MaskRCNN)
        self.args, self.predictor, self.splits = args, predictor, splits
        self.folder, self.world, self.augmentation = folder, world, augmentation
        self.steps, self.lr, self.warmup = args.steps, args.lr, args.warmup
        self.model, self.config = predictor.model, predictor.config
        self.take_step = self._make_step()
        self.loggers = loggers
        if args.tensorboard and world.is_main:
            self.loggers = (*loggers, TensorBoard(folder / "tensorboard"))
        # What is saved beside the tensors.
        self.best_ap = -1.0
        self.worse = 0  # evaluations since the best
        self.evaluated = 0  # the step of the last evaluation
        self.window: list[StepRecord] = []  # since the last row of the tables
        self.seconds = 0.0  # of training
        self.saved = 0  # the step of the last saved state

    def fit(self) -> int:
        """Train to the end, or until a signal; returns the exit code."""
        self.stop = StopRequest()
        first = self.saved  # where `restore` has put the run
        if self.world.is_main:
            # Steps whose row was not written yet when the state was saved have none.
            cut_tables(self.folder, first - 1 if self.window else first)
            for logger in self.loggers:
                logger.start(self.args.to_dict(), first)
        self.line = ProgressLine() if self.world.is_main else None
        try:
            if not self._after(first):
                for records in self._train(first):
                    self.window += records
                    self.seconds += sum(record.seconds for record in records)
                    if self.line:
                        text = format_progress(records, self.steps)
                        self.line.update(records[-1].step, self.steps, text)
                    if self._after(records[-1].step):
                        break
        except Stopped:
            pass
        except RuntimeError:
            if self.stop.signal is None or self.world.size == 1:
                raise
            print(
                f"process {self.world.rank}: the others answer no more; "
                f"the last saved state is that of step {self.saved}",
                flush=True,
            )
        finally:
            if self.line:
                self.line.close()
            for logger in self.loggers if self.world.is_main else ():
                logger.end()
            self.stop.restore()
        if self.world.is_main and not self.stop.exit_code:
            self._draw_predictions()
            print(f"weights, results.csv, curves and report.html are in {self.folder}")
            print(f"objects in other images: mrcnn predict IMAGES --weights {self.folder}")
        return self.stop.exit_code

    def _make_step(self) -> TrainStep:
        args, device = self.args, self.predictor.device
        if args.capture and (device.type != "cuda" or args.accumulate > 1 or self.world.size > 1):
            raise UserError(
                "--capture: is of one process on a CUDA device without --accumulate, got "
                f"{self.world.size} on {device} with --accumulate {args.accumulate}; leave it out"
            )
        if args.checkpoint_activations:
            checkpoint_stages(self.model.backbone.body)
        forward: nn.Module = self.model
        if args.compile:
            forward = torch.compile(forward)  # type: ignore[assignment]
        if self.world.size > 1:
            forward = distribute(forward, device)
        optimizer = make_optimizer(
            self.model,
            args.optimizer,
            self.lr,
            momentum=args.momentum,
            weight_decay=args.weight_decay,
            decay_norms=args.decay_norms,
            decay_biases=args.decay_biases,
        )
        return TrainStep(
            self.model,
            forward,
            optimizer,
            device=device,
            world=self.world,
            amp=args.amp,
            clip_norm=args.clip_norm,
            ema=Ema(self.model, args.ema) if args.ema else None,
            skip_bad=args.on_nan == "skip",
            capture=args.capture,
        )

    def _train(self, first: int) -> Iterator[list[StepRecord]]:
        """Steps from `first` on; records come where something is to be done after a step."""
        args, training = self.args, self.splits["train"]
        return train_steps(
            self.take_step,
            self._batches(first),
            lambda step: learning_rate(
                step,
                self.steps,
                lr=self.lr,
                warmup=self.warmup,
                warmup_factor=args.warmup_factor,
                schedule=args.schedule,
                milestones=args.milestones,
            ),
            steps=self.steps,
            first_step=first,
            parts=args.accumulate,
            read_at=lambda step: (
                # All processes ask each other after every step, so that they stop at the same one.
                self.world.any(self.stop.signal is not None)
                or step % args.print_every == 0
                or self._is_due(step, args.eval_every)
                or self._is_due(step, args.save_every)
            ),
            name_of=lambda index: str(training.path(index)),
        )

    def _batches(self, first: int) -> Iterator[TrainBatch]:
        """The batches of the run; the first is drawn, as the network sees it."""
        args = self.args
        for step, batch in enumerate(
            train_loader(
                self.splits["train"],
                self.config,
                self.augmentation,
                batch_size=args.batch_size,
                steps=self.steps,
                first_step=first,
                seed=args.seed,
                workers=args.workers,
                rank=self.world.rank,
                world=self.world.size,
                accumulate=args.accumulate,
                group_by_orientation=args.group_orientations,
                repeat_threshold=args.repeat_threshold,
                on_bad_image=args.on_bad_image,
            )
        ):
            for note in batch.notes:
                print(note, flush=True)
            if step == 0 and first == 0 and self.world.is_main:
                pictures = draw_targets(batch.images, batch.targets, self.config)[:PICTURES]
                self._write_picture("train_batch.jpg", mosaic(pictures))
            yield batch

    def _is_due(self, step: int, every: int) -> bool:
        return step == self.steps or bool(every and step and step % every == 0)

    def _after(self, step: int) -> bool:
        """All that follows a step: evaluation, tables, saved state. True where the run ends."""
        args = self.args
        stopping = self.world.any(self.stop.signal is not None)
        evaluates = self._is_due(step, args.eval_every) and self.evaluated != step
        if evaluates and not stopping:
            if step == self.steps:
                self._say_speed()
            self._save(step)  # an interruption of the evaluation loses nothing
            try:
                metrics = self._evaluate(step)
            except (RuntimeError, MemoryError) as error:
                if is_out_of_memory(error):
                    raise _out_of_memory(step, error) from error
                raise
            self._write_rows(metrics)
            self._save(step)
            if self.world.is_main:
                curves(self.folder / RESULTS, self.folder / "curves.png")
                write_report(self.folder, self.splits["val"])
            self.world.wait()  # a large report takes longer than a step may
        elif not evaluates and self.window and step % args.print_every == 0:
            self._write_rows({})
        if self.saved != step and (stopping or self._is_due(step, args.save_every)):
            self._save(step)
        ended = bool(args.patience) and self.worse >= args.patience
        if ended and self.world.is_main:
            print(f"no better AP in {self.worse} evaluations: training ends at step {step}")
        return stopping or ended or step >= self.steps

    def _write_rows(self, metrics: dict[str, float]) -> None:
        if self.world.is_main and self.window:
            rows = {
                RESULTS: results_row(self.window, metrics),
                TIMING: timing_row(self.window, self.seconds),
            }
            for table, row in rows.items():
                append_row(self.folder, table, row)
                for logger in self.loggers:
                    logger.log(row["step"], row)
        self.window = []

    def _evaluate(self, step: int) -> dict[str, float]:
        """Measure AP and losses, print them, and keep the weights: as the last, and as the best."""
        results = self.folder / "last_results.json"
        with evaluated_weights(self.take_step):
            metrics = self._measure(results)
            self.evaluated = step
            judged = metrics["segm_AP" if "segm_AP" in metrics else "bbox_AP"]
            is_best = judged > self.best_ap
            self.worse = 0 if is_best else self.worse + 1
            self.best_ap = max(self.best_ap, judged)
            if self.world.is_main:
                print(format_metrics(metrics))
                names = [name for name in ("bbox_AP", "segm_AP", "val_loss") if name in metrics]
                extra: dict[str, Any] = {"step": step, **{name: metrics[name] for name in names}}
                files = {"last": True, "best": is_best}
                for name in (name for name, wanted in files.items() if wanted):
                    path = self.folder / f"{name}.safetensors"
                    checkpoints.save(path, self.model.state_dict(), self.config, extra)
                if is_best:
                    with replacing(self.folder / "val_results.json") as draft:
                        draft.write_bytes(results.read_bytes())
        return metrics

    def _measure(self, results: Path) -> dict[str, float]:
        """AP on the validation images and, where asked, the loss; `Stopped` at a signal."""

        def check(done: int, images: int) -> None:
            if self.stop.signal is not None:
                raise Stopped

        validation, workers = self.splits["val"], self.args.workers
        metrics = evaluate(
            self.predictor,
            validation,
            workers=workers,
            results=results,
            progress=check,
            world=self.world,
        )
        if self.args.val_loss:
            metrics["val_loss"] = validation_loss(
                self.take_step, validation, self.config, workers=workers, progress=check
            )
        return metrics

    def _save(self, step: int) -> None:
        """The state after `step` steps, to resume from."""
        if self.world.is_main:
            values = {
                "best_ap": self.best_ap,
                "worse": self.worse,
                "evaluated": self.evaluated,
                "window": [record.to_dict() for record in self.window],
                "seconds": self.seconds,
                "environment": environment(),
            }
            state = snapshot(self.take_step, step, values)
            save_state(self.folder, state, keep_every=self.args.keep_every)
        self.saved = step
        self.world.wait()

    def restore(self, state: TrainingState) -> None:
        """Put the run where its state was saved.

        Raises:
            UserError: if the state is of another model or optimiser.
        """
        try:
            restore(self.take_step, state)
        except ValueError as error:
            reason = "\n".join(str(error).splitlines()[:4])
            raise UserError(
                f"{self.folder}: its state does not fit this run; {reason}\nLeave out the flag that"
                " changes it, or start a new run with --weights"
            ) from error
        self.saved, values = state.step, state.values
        self.best_ap, self.worse = values["best_ap"], values["worse"]
        self.evaluated, self.seconds = values["evaluated"], values["seconds"]
        self.window = [StepRecord(**record) for record in values["window"]]

    def _say_speed(self) -> None:
        if self.world.is_main:
            images = self.steps * self.args.batch_size
            print(
                f"trained {self.steps} steps of {self.args.batch_size} images in "
                f"{self.seconds:.0f} s, {images / max(self.seconds, 1e-9):.1f} img/s",
                flush=True,
            )

    def _draw_predictions(self) -> None:
        """A sheet of validation images with what the model finds in them."""
        validation = self.splits["val"]
        paths = [validation.path(i) for i in range(min(PICTURES, len(validation)))]
        with evaluated_weights(self.take_step):
            pictures = [np.asarray(found.plot()) for found in self.predictor.predict(paths)]
        self._write_picture("val_predictions.jpg", mosaic(pictures))

    def _write_picture(self, name: str, picture: Any) -> None:
        with replacing(self.folder / name) as draft:
            Image.fromarray(picture).save(draft)


def _out_of_memory(step: int, error: BaseException) -> UserError:
    reason = (str(error) or "MemoryError").splitlines()[0]
    return UserError(
        f"evaluation after step {step}: out of memory ({reason:.120}).\nLower --image-size, "
        "--max-detections or --workers, or add --amp bf16. --resume continues the run."
    )
