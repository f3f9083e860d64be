"""Frames of video files and cameras, and videos of pictures; by OpenCV, the extra `video`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.errors import UserError
from mrcnn.files import replacing

SUFFIXES = (".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm")
CAMERA = "camera:"  # before the number of one

_USUAL_RATE = 30.0  # frames a second, where a source does not tell


class VideoReader:
    """An open video file, or a camera.

    Args:
        place: the file, or `camera:0`.
    Raises:
        UserError: if OpenCV is missing, or finds no frames there.
    """

    def __init__(self, place: Path) -> None:
        self.is_camera = str(place).startswith(CAMERA)
        number = str(place).removeprefix(CAMERA)
        if self.is_camera and not number.isdigit():
            raise UserError(f"{place}: must be {CAMERA} and a number, as {CAMERA}0")
        cv2 = _opencv()
        self.capture = cv2.VideoCapture(int(number) if self.is_camera else str(place))
        has_frame, self._first = self.capture.read()
        if not has_frame:
            self.capture.release()
            fix = "is one connected?" if self.is_camera else "restore or convert it"
            raise UserError(f"{place}: OpenCV reads no frame of it; {fix}")
        self.rate = float(self.capture.get(cv2.CAP_PROP_FPS)) or _USUAL_RATE
        # As the header has it; of a camera, 0.
        self.count = max(0, int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """The frames, (h, w, 3) RGB; once."""
        has_frame, frame = True, self._first
        try:
            while has_frame:
                yield np.ascontiguousarray(frame[:, :, ::-1])
                has_frame, frame = self.capture.read()
        finally:
            self.capture.release()


class VideoWriter:
    """Writes pictures of one size as the frames of an MP4 file."""

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate = path, rate
        self.writer: Any = None

    def add(self, picture: NDArray[np.uint8]) -> None:
        """Append (h, w, 3) RGB.

        Raises:
            UserError: if OpenCV cannot write videos.
        """
        cv2 = _opencv()
        height, width = picture.shape[:2]
        if self.writer is None:
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self.writer = cv2.VideoWriter(str(self.path), codec, self.rate, (width, height))
            if not self.writer.isOpened():
                raise UserError(f"{self.path}: OpenCV cannot write MP4 here; give --no-overlays")
        self.writer.write(np.ascontiguousarray(picture[:, :, ::-1]))


@contextmanager
def written_video(path: Path, rate: float) -> Iterator[VideoWriter]:
    """A video that takes its place at `path` when it is whole.

    Raises:
        UserError: if it cannot be written.
    """
    with replacing(path) as draft:
        writer = VideoWriter(draft, rate)
        try:
            yield writer
        finally:
            if writer.writer is not None:
                writer.writer.release()


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"videos and cameras need OpenCV ({error}); run: pip install opencv-python-headless"
        ) from error
    return cv2
