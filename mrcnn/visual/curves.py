"""The course of a run as a picture: losses, learning rate, AP over steps."""

from __future__ import annotations

import csv
from pathlib import Path


def curves(results: Path, picture: Path) -> None:
    """Draw the table `results.csv` of a run.

    Args:
        results: columns `step`, `lr`, `loss`, its parts `loss_…`, and `val_loss` and `…_AP`, which
            may be empty.
        picture: .png or .svg file to write.
    """
    from matplotlib.figure import Figure  # takes half a second, and only this needs it

    with results.open(newline="") as file:
        rows = list(csv.DictReader(file))

    def series(name: str) -> tuple[list[float], list[float]]:
        points = [(float(row["step"]), float(row[name])) for row in rows if row.get(name)]
        return [step for step, _ in points], [value for _, value in points]

    columns = list(rows[0]) if rows else []
    losses = [name for name in columns if name.startswith("loss") or name == "val_loss"]
    panels = {
        "loss": losses,
        "AP on validation images": [name for name in columns if name.endswith("_AP")],
        "learning rate": [name for name in columns if name == "lr"],
    }
    figure = Figure(figsize=(15, 4), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for name in names:
            steps, values = series(name)
            width = 2.2 if name in ("loss", "val_loss") else 1.3
            label = "validation" if name == "val_loss" else name.removeprefix("loss_")
            label = label.replace("_", " ")
            axes.plot(
                steps, values, label=label, linewidth=width, marker="o" if len(steps) < 20 else ""
            )
        axes.set_title(title, loc="left")
        axes.set_xlabel("step")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(names) > 1:
            axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(picture, dpi=110)
