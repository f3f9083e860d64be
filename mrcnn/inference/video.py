"""Reading of video files and cameras, and writing of videos, by OpenCV (the extra `video`)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.errors import UserError
from mrcnn.io.atomic import replacing
from mrcnn.io.plain_files import check_plain

SUFFIXES = (".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm")
CAMERA = "camera:"  # followed by the number of a camera

_DEFAULT_RATE = 30.0  # frames per second, if a source does not state it


class VideoReader:
    """An open video file, or a camera.

    Args:
        path: the file, or `camera:0`.

    Raises:
        UserError: if OpenCV is missing, or cannot read a frame.
    """

    def __init__(self, path: Path) -> None:
        self.is_camera = str(path).startswith(CAMERA)
        number = str(path).removeprefix(CAMERA)
        if self.is_camera and not number.isdigit():
            raise UserError(f"{path}: must be {CAMERA} and a number, such as {CAMERA}0")
        cv2 = _opencv()
        if not self.is_camera:
            check_plain(path, sys.maxsize)
        self.capture = cv2.VideoCapture(int(number) if self.is_camera else str(path))
        has_frame, self._first = self.capture.read()
        if not has_frame:
            self.capture.release()
            fix = "is one connected?" if self.is_camera else "restore or convert it"
            raise UserError(f"{path}: OpenCV cannot read a frame of it; {fix}")
        self.rate = float(self.capture.get(cv2.CAP_PROP_FPS)) or _DEFAULT_RATE
        # Number of frames according to the header; 0 for a camera.
        self.count = max(0, int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames, (h, w, 3) RGB; only once."""
        has_frame, frame = True, self._first
        try:
            while has_frame:
                yield np.ascontiguousarray(frame[:, :, ::-1])
                has_frame, frame = self.capture.read()
        finally:
            self.capture.release()


@contextmanager
def written_video(path: Path, rate: float) -> Iterator[Callable[[NDArray[np.uint8]], None]]:
    """Write an MP4 file that appears at `path` once it is complete.

    Args:
        path: the file.
        rate: frames per second.

    Yields:
        A function that appends a frame (h, w, 3) RGB; all frames must have one size.

    Raises:
        UserError: if OpenCV is missing or cannot write videos, or the file cannot be written.
    """
    cv2 = _opencv()
    writer: Any = None
    with replacing(path) as draft:

        def add(frame: NDArray[np.uint8]) -> None:
            nonlocal writer
            if writer is None:
                codec = cv2.VideoWriter.fourcc(*"mp4v")
                writer = cv2.VideoWriter(str(draft), codec, rate, frame.shape[1::-1])
                if not writer.isOpened():
                    raise UserError(f"{path}: OpenCV cannot write MP4 here; use --no-overlays")
            writer.write(np.ascontiguousarray(frame[:, :, ::-1]))

        try:
            yield add
        finally:
            if writer is not None:
                writer.release()


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"videos and cameras need OpenCV ({error}); run: pip install opencv-python-headless"
        ) from error
    return cv2
