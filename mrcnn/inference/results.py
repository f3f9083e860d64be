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
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mrcnn.data.coco.write import coco_results
from mrcnn.errors import UserError
from mrcnn.inference.advice import PLOT, RESULT, advice, refuse_unknown
from mrcnn.inference.tables import (
    COLUMNS,
    optional_library,
    polygon_area,
    rows,
    to_feature,
    write_csv,
)
from mrcnn.io.atomic import replacing, write_json
from mrcnn.ops import rle
from mrcnn.visual import FILL, Colors, chosen_colours, draw_instances


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The objects detected in one image, best first, in pixels of the image.

    Indexing selects objects in the order of the index and gives another result. A loop gives a
    result per object, which also has `name`, `score`, `box`, `area`, `mask` and `polygon`.

    Example:
        >>> result = model.predict("street.jpg")
        >>> result[:5]  # the five best
        >>> result[result.scores > 0.7].of("car")
        >>> for one in result:
        ...     print(one.name, one.score, one.box, one.area)
    """

    image: NDArray[np.uint8]  # (h, w, 3) RGB
    boxes: NDArray[np.float32]  # (D, 4) xyxy
    scores: NDArray[np.float32]  # (D,) in [0, 1]
    labels: NDArray[np.int64]  # (D,) in [0, C)
    rles: list[dict[str, Any]]  # COCO RLE of the D masks; empty without a mask head
    class_names: tuple[str, ...]  # C
    category_ids: tuple[int, ...]  # C ids, as in the training annotations
    path: Path | None = None  # of the image
    error: UserError | None = None  # why the image was not read; it has no pixels and no objects

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(
        self, index: int | slice | Sequence[int] | NDArray[np.bool_] | NDArray[np.integer[Any]]
    ) -> Result:
        """Select objects by a position, a slice, several positions, or a (D,) mask."""
        if isinstance(index, str):
            classes = {name: f"result.of({name!r})" for name in self.class_names}
            fields = {name: f"result.{name}" for name in dir(self)}
            fix = advice(index, fields, classes | RESULT | fields)
            raise TypeError(f"Result: is indexed by positions, not by {index!r}{fix}")
        try:
            kept = np.atleast_1d(np.arange(len(self))[index])
        except IndexError as error:
            raise IndexError(
                f"Result: has {len(self)} objects ({error}); "
                "predict(image) returns the result itself, predict([image]) a list"
            ) from None
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
    def counts(self) -> dict[str, int]:
        """Number of objects of each class that occurs, the most frequent first."""
        return dict(Counter(self.names).most_common())

    @property
    def name(self) -> str:
        """Class name of the only object."""
        return self.names[self._only("names")]

    @property
    def score(self) -> float:
        """Score of the only object."""
        return float(self.scores[self._only("scores")])

    @property
    def box(self) -> NDArray[np.float32]:
        """Box of the only object, (4,) xyxy."""
        box: NDArray[np.float32] = self.boxes[self._only("boxes")]
        return box

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Mask of the only object, (h, w)."""
        return rle.decode(self._masks()[self._only("masks")])

    @property
    def area(self) -> float:
        """Area of the only object in pixels: of its mask, or of its box if there is no mask."""
        self._only("to_pandas()")
        return float(self._rows()[0][list(COLUMNS).index("area")])

    @property
    def polygon(self) -> NDArray[np.int32]:
        """Outline (V, 2) of the largest part of the only object; (0, 2) for an empty mask."""
        parts = self.polygons()[self._only("polygons()")]
        return max(parts, key=polygon_area, default=np.zeros((0, 2), np.int32))

    def _only(self, plural: str) -> int:
        """Return the position of the only object."""
        if len(self) != 1:
            raise ValueError(
                f"Result: one object has this attribute, this result has {len(self)}; "
                f"write result.{plural}, or a loop: for one in result"
            )
        return 0

    def _masks(self) -> list[dict[str, Any]]:
        """Return the RLEs, which must exist."""
        if len(self.rles) != len(self):
            raise UserError("Result: the model detects boxes only; there are no masks")
        return self.rles

    if not TYPE_CHECKING:  # a type checker refuses names that do not exist

        def __getattr__(self, name: str) -> NoReturn:
            fix = "" if name.startswith("_") else advice(name, dir(self), RESULT)
            raise AttributeError(f"Result: has no attribute {name!r}{fix}")

    @property
    def masks(self) -> NDArray[np.bool_]:
        """Masks (D, h, w), decoded at every access."""
        return rle.decode_all(self.rles, *self.image.shape[:2])

    def polygons(self) -> list[list[NDArray[np.int32]]]:
        """Trace the outlines of each mask.

        They follow the edges of pixels. Filling them restores the mask, except for its holes.

        Returns:
            D lists of (V, 2) arrays of (x, y), one for each separate part.

        Example:
            >>> cv2.polylines(image, result[0].polygons()[0], True, (0, 255, 0))
            >>> shapely.Polygon(result[0].polygon)
        """
        return [[part.astype(np.int32) for part in rle.to_polygons(mask)] for mask in self.rles]

    def label_image(self) -> NDArray[np.uint16]:
        """Draw the masks as numbers: 0 for the background, i + 1 for object i.

        Where masks overlap, the object with the higher score has the pixel.

        Returns:
            (h, w), as Fiji, CellProfiler and scikit-image take it.

        Raises:
            UserError: if there are no masks, or more than 65,535 objects.

        Example:
            >>> Image.fromarray(result.label_image()).save("labels.png")
        """
        if len(self) > np.iinfo(np.uint16).max:
            raise UserError(f"label_image: holds 65,535 objects at most, got {len(self)}")
        labels = np.zeros(self.image.shape[:2], np.uint16)
        masks = self._masks()
        for i in np.argsort(-self.scores, kind="stable")[::-1].tolist():
            x, y, mask = rle.decode_tight(masks[i])
            labels[y : y + mask.shape[0], x : x + mask.shape[1]][mask] = i + 1
        return labels

    def save_masks(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write each mask as a PNG file, black and white.

        Args:
            folder: is made if needed. Its files are named after the image: `photo_001.png`.

        Returns:
            D paths.

        Raises:
            UserError: if there are no masks, or a file cannot be written.
        """
        stem = self.path.stem if self.path else "image"
        paths = [Path(folder, f"{stem}_{number:03}.png") for number in range(1, len(self) + 1)]
        for path, mask in zip(paths, self._masks(), strict=True):
            with replacing(path) as draft:
                Image.fromarray(rle.decode(mask)).save(draft)
        return paths

    def crop(self) -> list[Image.Image]:
        """Crop the image to each box, widened to whole pixels."""
        height, width = self.image.shape[:2]
        low = np.floor(self.boxes[:, :2]).clip(0, (width - 1, height - 1))
        high = np.ceil(self.boxes[:, 2:]).clip(low + 1, (width, height))
        corners = np.concatenate([low, high], axis=1).astype(int).tolist()
        return [Image.fromarray(self.image[y1:y2, x1:x2]) for x1, y1, x2, y2 in corners]

    def plot(
        self,
        *,
        masks: bool = True,
        boxes: bool = True,
        labels: bool = True,
        colors: Colors = None,
        alpha: float = FILL,
        line_width: int | None = None,
        legend: bool = False,
        longest_side: int | None = None,
        **unknown: NoReturn,
    ) -> Image.Image:
        """Draw masks, boxes, names and scores over the image; a small image is enlarged.

        Args:
            masks: draw the masks.
            boxes: draw the boxes; with many objects only those without a mask.
            labels: write names and scores, where they fit.
            colors: one color, one per object, or those of some classes by name.
            alpha: opacity of the masks, in [0, 1]; their edges are opaque.
            line_width: of boxes and edges, pixels; chosen by the size of the image by default.
            legend: list the classes in a corner, with their colors and counts.
            longest_side: limit in pixels; larger images are reduced to it.
            **unknown: refused.

        Raises:
            ValueError: if a color or its number is not valid, or `alpha`.
            TypeError: if an option is unknown.

        Example:
            >>> result.plot(colors={"cat": "red"}, alpha=0.6, boxes=False).show()
        """
        refuse_unknown("Result.plot", unknown, Result.plot.__kwdefaults__ or (), PLOT)
        if self.error:
            raise self.error
        if not 0 <= alpha <= 1:
            raise ValueError(f"Result.plot: alpha must be in [0, 1], got {alpha}")
        return Image.fromarray(
            draw_instances(
                self.image,
                self.boxes,
                self.labels,
                self.rles if masks else [],
                self.class_names,
                self.scores,
                colours=chosen_colours(colors, self.labels, self.class_names),
                alpha=alpha,
                line_width=line_width,
                with_boxes=boxes,
                with_labels=labels,
                legend=legend,
                longest_side=longest_side,
            )
        )

    def save(self, path: str | os.PathLike[str], **options: Any) -> None:
        """Write `plot(**options)` to an image file; its folder is made if needed.

        Raises:
            UserError: if the file cannot be written.

        Example:
            >>> result.save("found/overlay.png", labels=False)
        """
        overlay = self.plot(**options)
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            overlay.save(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be written ({error}); use a .png or .jpg") from error

    def to_pandas(self) -> Any:
        """Convert to a `pandas.DataFrame` with a row per object.

        The columns are image, object (its number in this result, from 1), name, score, x1, y1, x2,
        y2, area, center_x and center_y. Area and center are those of the mask.

        Raises:
            UserError: if the library pandas is not installed.

        Example:
            >>> table = pd.concat(result.to_pandas() for result in model.stream("photos"))
            >>> table.groupby(["image", "name"]).area.mean()
        """
        # A table without rows has no types, and `pandas.concat` would change those of others.
        return (
            optional_library("pandas")
            .DataFrame(self._rows(), columns=list(COLUMNS))
            .astype(COLUMNS)
        )

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the table of `to_pandas` as a CSV file; pandas is not needed.

        Raises:
            UserError: if the file cannot be written.
        """
        write_csv(Path(path), [list(COLUMNS), *self._rows()])

    def to_geojson(self, path: str | os.PathLike[str]) -> None:
        """Write the outlines as GeoJSON in pixels of the image, y downwards; holes are filled.

        Raises:
            UserError: if the file cannot be written.
        """
        features = map(to_feature, self.names, self.to_coco())
        write_json(Path(path), {"type": "FeatureCollection", "features": list(features)})

    def _rows(self) -> list[tuple[str | int | float, ...]]:
        return list(rows(str(self.path or ""), self.names, self.to_coco()))

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
        return optional_library("supervision").Detections(
            xyxy=self.boxes,
            mask=self.masks if self.rles else None,
            confidence=self.scores,
            class_id=self.labels,
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def __repr__(self) -> str:
        if self.error:
            return f"Result(failed: {self.error})"
        height, width = self.image.shape[:2]
        path = f"{self.path.name}, " if self.path else ""
        objects = self.summary()
        if len(self) == 1:
            objects = f"{self.name} {self.score:.2f}, box {[round(x) for x in self.box.tolist()]}"
        return f"Result({path}{height} x {width} pixels: {objects})"

    def summary(self) -> str:
        """Count the objects of each class, such as "3 dog, 1 cat"."""
        counts = (f"{count} {name}" for name, count in self.counts.items())
        return ", ".join(counts) or "no objects"

    def _repr_png_(self) -> bytes:
        """Return the overlay that notebooks show."""
        buffer = io.BytesIO()
        self.plot().save(buffer, "png")
        return buffer.getvalue()
