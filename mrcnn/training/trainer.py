"""The trainer of a run: steps, evaluations, saved states, and the files of the run folder."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mrcnn import checkpoints
from mrcnn.cli.progress import ProgressLine
from mrcnn.data.augment.transforms import Augmentation
from mrcnn.data.coco.read import CocoDataset
from mrcnn.data.loading.loader import Batch, train_loader
from mrcnn.evaluation import Evaluation, evaluate
from mrcnn.evaluation.truth import GroundTruth
from mrcnn.inference.predictor import Predictor
from mrcnn.io.atomic import replacing
from mrcnn.reports.run_report import read_evaluation, read_rows, write_report
from mrcnn.training.config import TrainConfig
from mrcnn.training.loggers import Logger
from mrcnn.training.loop import StepRecord, contention, explain_out_of_memory, train_steps
from mrcnn.training.run_data import image_digests
from mrcnn.training.run_folder import (
    RESULTS,
    TIMING,
    append_row,
    cut_tables,
    environment,
    format_progress,
    mean_losses,
    results_row,
    timing_row,
)
from mrcnn.training.state import TrainingState, restore, save_state, snapshot
from mrcnn.training.step import TrainStep
from mrcnn.training.stop import StopRequest
from mrcnn.training.validation import evaluated_weights, validation_loss
from mrcnn.visual import draw_targets, mosaic
from mrcnn.visual.plots import save_training_curves

SHEET_IMAGES = 9  # images on a sheet
REPORT_SHARE = 0.01  # of the time, for reports between evaluations
DATA = "data"  # prefix of the digests of the data, in a state


class Stopped(Exception):  # noqa: N818  it is not an error
    """A signal interrupted an evaluation."""


class Trainer:
    """A training run and its folder.

    `options` has `steps`, `warmup` and `lr` set. `splits` holds the data sets "train" and "val".
    `predictor` detects with the model of `take_step`. `folder` exists; only the main process writes
    there.

    Attributes:
        best: Metrics of the best evaluation in this process, or empty.
        last: Metrics of the last evaluation in this process, or empty.
    """

    def __init__(
        self,
        options: TrainConfig,
        predictor: Predictor,
        take_step: TrainStep,
        splits: dict[str, CocoDataset],
        augmentation: Augmentation,
        folder: Path,
        loggers: tuple[Logger, ...] = (),
    ) -> None:
        assert options.steps is not None
        self.options, self.steps = options, options.steps
        self.predictor, self.take_step, self.world = predictor, take_step, take_step.world
        self.splits, self.augmentation, self.folder = splits, augmentation, folder
        self.loggers = loggers if self.world.is_main else ()
        self.best: dict[str, float] = {}
        self.last: dict[str, float] = {}
        # In the main process: the best evaluation, for the report, and the validation annotations.
        self.best_evaluation: Evaluation | None = None
        self.truth: GroundTruth | None = None
        self.report_due = 0.0  # the time of the next report between evaluations
        # For the progress line, which only the main process has:
        self.line: ProgressLine | None = None
        self.recent: deque[StepRecord] = deque(maxlen=1 + options.print_every)  # without losses
        self.losses: dict[str, float] = {}
        # Saved beside the tensors:
        self.best_ap = -1.0
        self.worse = 0  # evaluations since the best
        self.evaluated = 0  # the step of the last evaluation
        self.window: list[StepRecord] = []  # since the last row of the tables
        self.seconds = 0.0  # of training
        self.saved = 0  # the step of the last saved state

    def fit(self) -> int:
        """Train to the end, or until a signal; return the exit code."""
        first = self.saved  # 0, or the step that `restore` has loaded
        with ExitStack() as stack:
            self.stop = stack.enter_context(StopRequest())
            if self.world.is_main:
                # Rows that were not written yet when the state was saved are written again.
                cut_tables(self.folder, first - 1 if self.window else first)
            for logger in self.loggers:
                logger.start(self.options.to_dict(), first)
                stack.callback(logger.end)
            if self.world.is_main:
                self.line = stack.enter_context(ProgressLine())
            try:
                self._fit(first)
            except Stopped:
                pass
            except RuntimeError:
                if self.stop.signal is None or self.world.size == 1:
                    raise
                print(
                    f"process {self.world.rank}: the other processes have stopped responding; "
                    f"the last saved state is that of step {self.saved}",
                    flush=True,
                )
            if self.world.is_main:
                self._write_report(is_running=False)
        if self.world.is_main and self.stop.signal is not None:
            saved = f"saved after step {self.saved}" if self.saved else "no step was finished"
            name = signal.Signals(self.stop.signal).name
            print(f"{name}: {saved}; continue with: mrcnn train --resume {self.folder}")
        elif self.world.is_main:
            self._draw_predictions()
            print(f"weights, results.csv, curves and report.html are in {self.folder}")
        if self.world.is_main and self.saved:
            print(f"predict other images: mrcnn predict IMAGES --weights {self.folder}")
        return self.stop.exit_code

    def _fit(self, first: int) -> None:
        options, dataset = self.options, self.splits["train"]
        if self._finish_step(first):
            return
        note, cpu = "", time.process_time()
        for records in train_steps(
            self.take_step,
            self._batches(first),
            options,
            first_step=first,
            read_at=lambda record: self._is_read(record, first),
            name_of=lambda index: str(dataset.path(index)),
        ):
            self.window += records
            self.seconds += sum(record.seconds for record in records)
            self.losses = mean_losses(records)
            if self.line and not note and self.take_step.device.type == "cpu":
                cpu_seconds = time.process_time() - cpu
                note = contention(records, cpu_seconds, torch.get_num_threads())
                if note:
                    print(note, flush=True)
            self._show(always=True)
            if self._finish_step(records[-1].step):
                return
            cpu = time.process_time()

    def _is_read(self, record: StepRecord, first: int) -> bool:
        """Show a step that is done; return whether its losses are read from the device now."""
        self.recent.append(record)
        self._show()
        step, options = record.step, self.options
        return (
            # All processes exchange this after every step, so that they stop at the same one.
            self.world.any(self.stop.signal is not None)
            or step == first + 1  # so that losses are seen early
            or step % options.print_every == 0
            or self._is_due(step, options.eval_every)
            or self._is_due(step, options.save_every)
        )

    def _show(self, text: str = "", always: bool = False) -> None:
        """Redraw the progress line in a terminal; elsewhere print a line if `always`."""
        if self.line and self.recent and (always or self.line.bar):
            text = text or format_progress(list(self.recent), self.steps, self.losses)
            self.line.update(self.recent[-1].step, self.steps, text)

    def _batches(self, first: int) -> Iterator[Batch]:
        """Yield the batches of the run; draw the first one as the network sees it."""
        options, config = self.options, self.predictor.config
        batches = train_loader(
            self.splits["train"],
            config,
            self.augmentation,
            batch_size=options.batch_size,
            steps=self.steps,
            first_step=first,
            seed=options.seed,
            workers=options.workers,
            rank=self.world.rank,
            world=self.world.size,
            accumulate=options.accumulate,
            group_by_orientation=options.group_orientations,
            repeat_threshold=options.repeat_threshold,
            on_bad_image=options.on_bad_image,
        )
        for number, batch in enumerate(batches):
            for note in batch.notes:
                print(note, flush=True)
            if number == 0 and first == 0 and self.world.is_main:
                overlays = draw_targets(batch.images, batch.targets, config)[:SHEET_IMAGES]
                self._write_sheet("train_batch.jpg", overlays)
            yield batch

    def _is_due(self, step: int, every: int | None) -> bool:
        return step == self.steps or bool(every and step and step % every == 0)

    def _finish_step(self, step: int) -> bool:
        """Evaluate, write tables and save the state if due; return True if the run ends."""
        options = self.options
        stopping = self.world.any(self.stop.signal is not None)
        is_evaluated = self._is_due(step, options.eval_every) and self.evaluated != step
        if is_evaluated and not stopping:
            if step == self.steps and self.world.is_main:
                speed = step * options.batch_size / max(self.seconds, 1e-9)
                print(
                    f"trained {step} steps of {options.batch_size} images in {self.seconds:.0f} s, "
                    f"{speed:.1f} img/s",
                    flush=True,
                )
            self._save(step)  # so that an interrupted evaluation loses nothing
            self._evaluate(step)
        elif not is_evaluated and self.window and step % options.print_every == 0:
            self._write_rows({})
        if self.saved != step and (stopping or self._is_due(step, options.save_every)):
            self._save(step)
        no_longer_better = bool(options.patience) and self.worse >= options.patience
        if no_longer_better and self.world.is_main:
            print(f"AP has not improved in {self.worse} evaluations; stopping at step {step}")
        ended = stopping or no_longer_better or step >= self.steps
        if step and not self.window and not ended:  # rows were written
            if self.world.is_main and (is_evaluated or time.perf_counter() >= self.report_due):
                self._write_report()
            self.world.wait()  # a large report takes longer than a step may
        return ended

    def _write_rows(self, metrics: dict[str, float]) -> None:
        if self.world.is_main and self.window:
            results = results_row(self.window, metrics)
            timing = timing_row(self.window, self.seconds)
            for table, row in ((RESULTS, results), (TIMING, timing)):
                append_row(self.folder, table, row)
                for logger in self.loggers:
                    logger.log(row["step"], row)
        self.window = []

    def _evaluate(self, step: int) -> None:
        """Measure AP and losses, keep the weights, and write the tables and the state."""
        with explain_out_of_memory(
            f"evaluation after step {step}: out of memory",
            "Lower --image-size, --max-detections or --workers, or add --amp bf16.",
        ):
            metrics = self._measure(step)
        self._write_rows(metrics)
        self._save(step)

    def _write_report(self, is_running: bool = True) -> None:
        """Write report.html and curves.png, if the tables have a row."""
        if not (self.folder / RESULTS).exists():
            return
        begun, validation = time.perf_counter(), self.splits["val"]
        if self.best_evaluation is None:  # it was made before the run was resumed
            model = self.predictor.config
            self.best_evaluation = read_evaluation(self.folder, validation, model, self.truth)
            self.truth = self.best_evaluation.truth if self.best_evaluation else self.truth
        save_training_curves(self.folder / "curves.png", read_rows(self.folder))
        write_report(self.folder, validation, self.best_evaluation, is_running)
        now = time.perf_counter()
        self.report_due = now + (now - begun) / REPORT_SHARE

    def _measure(self, step: int) -> dict[str, float]:
        """Evaluate; print the metrics, and save the weights as the last, and perhaps the best.

        Raises:
            Stopped: at a signal.
        """

        def check(done: int = 0, images: int = 0) -> None:
            if self.stop.signal is not None:
                raise Stopped
            what = f"evaluating, {done} of {images} images" if images else "validation loss"
            self._show(f"step {step}/{self.steps}  {what}")

        validation, workers = self.splits["val"], self.options.workers
        results = self.folder / "last_results.json"
        with evaluated_weights(self.take_step):
            evaluation = evaluate(
                self.predictor, validation, workers=workers, results=results, truth=self.truth,
                progress=check, world=self.world,
            )  # fmt: skip
            metrics = dict(evaluation.metrics)
            if self.options.val_loss:
                metrics["val_loss"] = validation_loss(
                    self.take_step, validation, self.predictor.config, workers, check
                )
            ap = metrics["segm_AP" if "segm_AP" in metrics else "bbox_AP"]
            is_best = ap > self.best_ap
            self.evaluated, self.last = step, metrics
            self.worse = 0 if is_best else self.worse + 1
            if is_best:
                self.best_ap, self.best = ap, metrics
            if self.world.is_main:
                print(evaluation)
                self.truth = evaluation.truth
                self._save_weights("last", step, metrics)
                if is_best:
                    self.best_evaluation = evaluation
                    self._save_weights("best", step, metrics)
                    with replacing(self.folder / "val_results.json") as draft:
                        draft.write_bytes(results.read_bytes())
        self._show()
        return metrics

    def _save_weights(self, file: str, step: int, metrics: dict[str, float]) -> None:
        names = [name for name in ("bbox_AP", "segm_AP", "val_loss") if name in metrics]
        extra: dict[str, float] = {"step": step, **{name: metrics[name] for name in names}}
        path, state = self.folder / f"{file}.safetensors", self.take_step.model.state_dict()
        checkpoints.save(path, state, self.predictor.config, extra)

    def _save(self, step: int) -> None:
        """Save the state after `step` steps, to resume from, and the weights, to predict."""
        if self.world.is_main:
            values = {
                "best_ap": self.best_ap,
                "worse": self.worse,
                "evaluated": self.evaluated,
                "window": [asdict(record) for record in self.window],
                "seconds": self.seconds,
                "environment": environment(),
            }
            state = snapshot(self.take_step, step, values)
            state = replace(state, tensors=state.tensors | self.data_digests)
            save_state(self.folder, state, keep_every=self.options.keep_every)
            if self.evaluated != step:  # an evaluation has saved them with their metrics
                with evaluated_weights(self.take_step):
                    self._save_weights("last", step, {})
        self.saved = step
        self.world.wait()

    @cached_property
    def data_digests(self) -> dict[str, Tensor]:
        """The digests of the images of each split, for the state."""
        return {f"{DATA}.{name}": image_digests(data) for name, data in self.splits.items()}

    def restore(self, state: TrainingState) -> None:
        """Return to a saved state.

        Raises:
            UserError: if the state belongs to another model or optimizer.
        """
        restore(self.take_step, state, self.folder)
        self.saved, values = state.step, state.values
        self.best_ap, self.worse = values["best_ap"], values["worse"]
        self.evaluated, self.seconds = values["evaluated"], values["seconds"]
        self.window = [StepRecord(**record) for record in values["window"]]

    def _draw_predictions(self) -> None:
        """Draw a sheet of validation images with their detections."""
        validation = self.splits["val"]
        paths = [validation.path(i) for i in range(min(SHEET_IMAGES, len(validation)))]
        with evaluated_weights(self.take_step):
            overlays = [np.asarray(result.plot()) for result in self.predictor.predict(paths)]
        self._write_sheet("val_predictions.jpg", overlays)

    def _write_sheet(self, name: str, overlays: list[NDArray[np.uint8]]) -> None:
        with replacing(self.folder / name) as draft:
            Image.fromarray(mosaic(overlays)).save(draft)
