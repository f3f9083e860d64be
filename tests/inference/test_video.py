"""Videos and cameras in `mrcnn predict`: by OpenCV where it is installed, and by a stand-in."""

import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import mrcnn
from mrcnn.errors import UserError
from mrcnn.inference import predict_files
from mrcnn.inference.sources import Source, overlay_names
from mrcnn.inference.video import VideoReader, written_video
from tests.helpers.predicting import interrupted_after, predict, read


class Capture:
    """Reader of what `Writer` wrote, or a camera with endless frames."""

    def __init__(self, place):
        self.left = iter([])
        self.count = 0
        if isinstance(place, int):
            self.left = itertools.repeat(np.zeros((40, 60, 3), np.uint8))
        elif Path(place).stat().st_size:
            with open(place, "rb") as file:
                frames = np.load(file)
            self.left, self.count = iter(frames), len(frames)

    def read(self):
        frame = next(self.left, None)
        return frame is not None, frame

    def get(self, what):
        return {"rate": 10.0, "count": self.count}[what]

    def release(self):
        pass


class Writer:
    def __init__(self, path, codec, rate, size):
        self.path, self.size, self.frames = path, size, []

    @staticmethod
    def fourcc(*letters):
        return "".join(letters)

    def isOpened(self):  # noqa: N802
        return True

    def write(self, frame):
        assert frame.shape[1::-1] == self.size
        self.frames.append(frame)

    def release(self):
        with open(self.path, "wb") as file:
            np.save(file, np.stack(self.frames))


STAND_IN = SimpleNamespace(
    VideoCapture=Capture, VideoWriter=Writer, CAP_PROP_FPS="rate", CAP_PROP_FRAME_COUNT="count"
)


@pytest.fixture(params=["stand-in", "OpenCV"])
def opencv(request, monkeypatch):
    if request.param == "stand-in":
        monkeypatch.setitem(sys.modules, "cv2", STAND_IN)
    else:
        pytest.importorskip("cv2", reason="OpenCV, the extra `video`, is not installed")


@pytest.fixture
def clip(opencv, tmp_path) -> Path:
    """A video of five frames, each brighter than the one before."""
    with written_video(tmp_path / "clip.mp4", 10.0) as add_frame:
        for frame in range(5):
            add_frame(np.full((40, 60, 3), [40 * frame, 20, 30 * frame], np.uint8))
    return tmp_path / "clip.mp4"


def test_round_trip(clip):
    """Written frames can be read, up to the losses of the codec."""
    reader = VideoReader(clip)
    frames = list(reader)
    assert (len(frames), reader.count, reader.rate) == (5, 5, 10)
    for number, frame in enumerate(frames):
        assert frame.shape == (40, 60, 3)
        np.testing.assert_allclose(frame.mean((0, 1)), [40 * number, 20, 30 * number], atol=6)


def test_a_video(clip, weights, tmp_path, capsys, monkeypatch):
    """A video gives a line and an overlay per frame, whatever the batches."""
    monkeypatch.setattr(predict_files, "FRAMES_PER_LINE", 2)
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a.png")
    out = tmp_path / "out"
    assert predict(weights, out, clip, tmp_path / "a.png", "--batch-size", 2) == 0
    output = capsys.readouterr().out
    assert f"[2/2] {clip}: 4 of 5 frames" in output
    assert f"[2/2] {clip}: 5 frames" in output
    images = read(out)["images"]
    assert [image.get("frame") for image in images] == [0, 1, 2, 3, 4, None]
    assert [image["id"] for image in images] == [1, 2, 3, 4, 5, 6]
    assert {image["file_name"] for image in images[:5]} == {str(clip)}
    model = mrcnn.load(weights, score_threshold=0.0)
    expected = [e for f in model.predict(list(VideoReader(clip)), 0) for e in f.to_coco(0)]
    found = [entry for entry in read(out)["annotations"] if entry["image_id"] < 6]
    assert [entry["category_id"] for entry in found] == [e["category_id"] for e in expected]
    np.testing.assert_allclose([e["bbox"] for e in found], [e["bbox"] for e in expected], atol=0.01)
    drawn = list(VideoReader(out / "clip.mp4"))
    assert len(drawn) == 5
    assert drawn[0].shape == (360, 540, 3)  # small frames are enlarged


def test_label_images_and_tables_of_frames(clip, weights, tmp_path):
    flags, out = ("--no-overlays", "--masks", "--csv", "--resume"), tmp_path / "out"
    assert predict(weights, out, clip, *flags) == 0
    expected = [f"{number:06}.png" for number in range(5)]
    assert sorted(path.name for path in (out / "masks" / "clip").iterdir()) == expected
    frames = [line.rpartition(",")[2] for line in (out / "predictions.csv").read_text().split()]
    assert set(frames[1:]) == set("01234")
    (tmp_path / "b").mkdir()
    clip.rename(tmp_path / "b" / "clip.mp4")
    assert predict(weights, out, tmp_path / "b" / "clip.mp4", *flags) == 0
    assert len(list((out / "masks" / "clip_2").iterdir())) == 5  # the name of the first is taken


def test_a_video_in_python(clip, weights):
    model = mrcnn.load(weights)
    assert len(model.predict(clip)) == 5
    assert next(model.stream(str(clip))).image.shape == (40, 60, 3)


def test_an_interrupted_video_is_started_again(clip, weights, tmp_path, capsys):
    predict(weights, tmp_path / "whole", clip)
    out = tmp_path / "out"
    with interrupted_after(3), pytest.raises(KeyboardInterrupt):
        predict(weights, out, clip)
    assert not (out / "clip.mp4").exists()
    for frames in (5, 0):
        capsys.readouterr()
        assert predict(weights, out, clip, "--resume") == 0
        assert (": 5 frames" in capsys.readouterr().out) == bool(frames)
        assert read(out) == read(tmp_path / "whole")
        assert (out / "clip.mp4").exists()


def test_a_broken_video_does_not_stop_the_run(clip, weights, tmp_path, capsys):
    (tmp_path / "empty.mp4").touch()
    assert predict(weights, tmp_path / "out", tmp_path / "*.mp4", "--no-overlays") == 2
    assert "empty.mp4: OpenCV cannot read a frame of it" in capsys.readouterr().err
    assert len(read(tmp_path / "out")["images"]) == 5


def test_a_camera_until_it_is_stopped(weights, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", STAND_IN)
    with interrupted_after(3):
        assert predict(weights, tmp_path, "camera:0") == 0
    assert [image["frame"] for image in read(tmp_path)["images"]] == [0, 1, 2]
    assert (tmp_path / "camera0.mp4").exists()


def test_no_such_camera():
    with pytest.raises(UserError, match="camera:front: must be camera: and a number"):
        VideoReader(Path("camera:front"))


def test_without_opencv(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match="run: pip install opencv-python-headless"):
        VideoReader(tmp_path / "a.mp4")


def test_names_of_videos():
    paths = [Path(name) for name in ("a.png", "b/a.avi", "a.mp4", "camera:0")]
    sources = [Source(path, Path(path.name)) for path in paths]
    assert overlay_names(sources) == ["a.jpg", "a.mp4", "a_2.mp4", "camera0.mp4"]
