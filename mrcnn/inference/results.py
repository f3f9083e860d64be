"""The detected objects of one image, and conversions of them.

D objects, image of h x w pixels, C classes.
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mrcnn.data.coco.write import coco_results
from mrcnn.errors import UserError
from mrcnn.ops import rle
from mrcnn.visual import draw_instances


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The objects detected in one image, best first, in pixels of the image.

    Indexing selects objects in the order of the index and gives another result.

    Example:
        >>> result = model.predict("street.jpg")
        >>> result[:5]  # the five best
        >>> result[result.scores > 0.7].of("car")
        >>> for car in result.of("car"):
        ...     print(car.boxes[0], car.scores[0])
    """

    image: NDArray[np.uint8]  # (h, w, 3) RGB
    boxes: NDArray[np.float32]  # (D, 4) xyxy
    scores: NDArray[np.float32]  # (D,) in [0, 1]
    labels: NDArray[np.int64]  # (D,) in [0, C)
    rles: list[dict[str, Any]]  # COCO RLE of the D masks; empty without a mask head
    class_names: tuple[str, ...]  # C
    category_ids: tuple[int, ...]  # C ids, as in the training annotations
    path: Path | None = None  # of the image

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(
        self, index: int | slice | Sequence[int] | NDArray[np.bool_] | NDArray[np.integer[Any]]
    ) -> Result:
        """Select objects by a position, a slice, several positions, or a (D,) mask."""
        kept = np.atleast_1d(np.arange(len(self))[index])
        return dataclasses.replace(
            self,
            boxes=self.boxes[kept],
            scores=self.scores[kept],
            labels=self.labels[kept],
            rles=[self.rles[i] for i in kept] if self.rles else [],
        )

    def of(self, *names: str) -> Result:
        """Select the objects of some classes.

        Raises:
            ValueError: if the model has no class with this name.

        Example:
            >>> result.of("cat", "dog").names
            ['dog', 'cat', 'dog']
        """
        if unknown := sorted(set(names) - set(self.class_names)):
            raise ValueError(
                f"Result.of: names must be classes of the model ({', '.join(self.class_names)}), "
                f"got {unknown[0]!r}"
            )
        return self[np.isin(self.labels, [self.class_names.index(name) for name in names])]

    @property
    def names(self) -> list[str]:
        """Class name of each object."""
        return [self.class_names[label] for label in self.labels]

    @property
    def masks(self) -> NDArray[np.bool_]:
        """Masks (D, h, w), decoded at every access."""
        return rle.decode_all(self.rles, *self.image.shape[:2])

    def polygons(self) -> list[list[NDArray[np.float32]]]:
        """Trace the outlines of each mask.

        They follow the edges of pixels. Filling them restores the mask, except for its holes.

        Returns:
            D lists of (V, 2) arrays of (x, y), one for each separate part.
        """
        return [rle.to_polygons(mask) for mask in self.rles]

    def crop(self) -> list[Image.Image]:
        """Crop the image to each box, widened to whole pixels."""
        height, width = self.image.shape[:2]
        low = np.floor(self.boxes[:, :2]).clip(0, (width - 1, height - 1))
        high = np.ceil(self.boxes[:, 2:]).clip(low + 1, (width, height))
        corners = np.concatenate([low, high], axis=1).astype(int).tolist()
        return [Image.fromarray(self.image[y1:y2, x1:x2]) for x1, y1, x2, y2 in corners]

    def plot(self, *, legend: bool = False, longest_side: int | None = None) -> Image.Image:
        """Draw boxes, masks, names and scores over the image; a small image is enlarged.

        Args:
            legend: list the classes in a corner, with their colours and counts.
            longest_side: limit in pixels; larger images are reduced to it.

        Example:
            >>> result.plot(legend=True, longest_side=1600).show()
        """
        return Image.fromarray(
            draw_instances(
                self.image,
                self.boxes,
                self.labels,
                self.rles,
                self.class_names,
                self.scores,
                legend=legend,
                longest_side=longest_side,
            )
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `plot()` to an image file.

        Raises:
            UserError: if the file cannot be written.

        Example:
            >>> result.save("overlay.png")
        """
        try:
            self.plot().save(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be written ({error}); use a .png or .jpg") from error

    def to_coco(self, image_id: int | None = None) -> list[dict[str, Any]]:
        """Convert to entries of a COCO result file, with the category ids of the training data.

        Args:
            image_id: id in the annotation file. Without it, entries have the `file_name` instead.

        Example:
            >>> json.dump(result.to_coco(image_id=17), open("results.json", "w"))
        """
        entries = coco_results(self.boxes, self.scores, self.labels, self.rles, self.category_ids)
        if image_id is not None:
            return [{"image_id": image_id, **entry} for entry in entries]
        name = self.path.name if self.path else None
        return [{"file_name": name, **entry} for entry in entries]

    def to_supervision(self) -> Any:
        """Convert to `supervision.Detections`.

        Raises:
            UserError: if the library supervision is not installed.

        Example:
            >>> supervision.MaskAnnotator().annotate(result.image, result.to_supervision())
        """
        try:
            import supervision
        except ImportError as error:
            raise UserError(
                f"to_supervision needs the library supervision ({error}); "
                "run: pip install supervision"
            ) from error
        return supervision.Detections(
            xyxy=self.boxes,
            mask=self.masks if self.rles else None,
            confidence=self.scores,
            class_id=self.labels,
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        name = f"{self.path.name}, " if self.path else ""
        return f"Result({name}{height} x {width} pixels: {self.summary()})"

    def summary(self) -> str:
        """Count the objects of each class, such as "3 dog, 1 cat"."""
        counts = (f"{count} {name}" for name, count in Counter(self.names).most_common())
        return ", ".join(counts) or "no objects"

    def _repr_png_(self) -> bytes:
        """Return the overlay that notebooks show."""
        buffer = io.BytesIO()
        self.plot().save(buffer, "png")
        return buffer.getvalue()
