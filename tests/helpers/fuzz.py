"""Random malformed input for the readers, for minutes, under AddressSanitizer and UBSan.

python -m tests.helpers.fuzz coco --minutes 20

Every case is either read or refused with a clear error. Anything else ends the run with the seed of
the case: a sanitizer's report, another exception, a case of 30 seconds of processor time,
or 1 GB more memory.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import io
import json
import pickle
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mrcnn import checkpoints
from mrcnn.data.checks.read import read_leniently
from mrcnn.data.coco.read import read_coco
from mrcnn.data.coco.truth import as_coco
from mrcnn.errors import UserError
from mrcnn.ops import instance_masks
from mrcnn.ops.mask_targets import mask_targets
from tests.helpers import hostile_files, mask_inputs, sanitized, tiny

SECONDS = 30  # of processor time that one case may take
MEGABYTES = 1024
SEED = "seed"  # file in the working folder with the seed of the case that runs
CHILD = """
import sys
from mrcnn.ops import library
assert library.load("mrcnn_host").__file__.startswith(sys.argv[1]), "not the sanitized kernels"
from tests.helpers.fuzz import run
run(sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
"""

Rng = random.Random
NUMBERS = (
    *(0, -1, 1, 2, 3, 63, 64, 65, 1e9, -1e9, 1e300, 5e-324, 0.5, -0.0, 2**31, 2**31 - 1, 2**63),
    *(2**128, 10**400, float("nan"), float("inf"), float("-inf")),
)
VALUES = (None, True, False, "", "1", "1.5", "\ud800", "\x1b[2J", "a" * 5000, [], {}, [[]], [0] * 6)


def change_bytes(rng: Rng, data: bytes) -> bytes:
    """Overwrite, cut, remove or repeat some bytes."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, kind = rng.randrange(len(changed) + 1), rng.randrange(5)
        if kind == 0:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1 and rng.random() < 0.2:
            del changed[at:]
        elif kind == 2:
            del changed[at : at + rng.randint(1, 40)]
        elif kind == 3:
            changed[at:at] = changed[at : at + rng.randint(1, 40)]
        else:
            changed[at : at + 8] = rng.choice((b"\xff", b"\0", b"\x7f")) * 8
    return bytes(changed)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container inside a JSON value with each of its keys."""
    for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(item, dict | list):
            yield from places(item)


def change_json(rng: Rng, content: Any) -> None:
    """Replace, remove, repeat or move a random value inside a JSON value."""
    choices = list(places(content))
    (parent, key), (other, name) = rng.choice(choices), rng.choice(choices)
    kind = rng.random()
    if kind < 0.3:
        parent[key] = rng.choice(NUMBERS)
    elif kind < 0.6:
        parent[key] = copy.deepcopy(rng.choice(VALUES))
    elif kind < 0.75:
        del parent[key]
    elif kind < 0.9 or isinstance(parent, dict):
        parent[key] = copy.deepcopy(other[name])
    else:
        parent[key:key] = [parent[key]] * rng.choice((1, 3, 1000))


def ring(rng: Rng, side: int) -> list[float]:
    """Draw a polygon: mostly inside the image, at times with many points or far ones."""
    count = rng.choice((0, 1, 2, 3, 3, 4, 10, 100, 20_000))
    reach = rng.choice((1, 1, 1, 2, 1e-3, 1e6)) * side
    points = [rng.uniform(-0.1, 1) * reach for _ in range(2 * count)]
    return [round(point) for point in points] if rng.random() < 0.3 else points


def annotations(rng: Rng) -> Any:
    """Draw the content of a COCO file, broken in up to three places."""
    side = rng.choice((1, 7, 64, 64, 64, 1000, 9900))
    counts = [side * side // 3, side * side // 3, side * side - side * side // 3 * 2]
    masks: tuple[Callable[[], Any], ...] = (
        lambda: [ring(rng, side) for _ in range(rng.randint(1, 3))],
        lambda: {"size": [side, side], "counts": [*counts]},
        lambda: {"size": [side, side], "counts": mask_inputs.text_of(counts)},
    )
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": side, "width": side} for i in (1, 2)
        ],
        "annotations": [
            {
                "id": i,
                "image_id": rng.randint(1, 2),
                "category_id": rng.choice((3, 7)),
                "iscrowd": int(rng.random() < 0.2),
                "bbox": [0, 0, side / 2, side / 2],
                "area": side,
                "segmentation": rng.choice(masks)(),
            }
            for i in range(rng.randint(0, 4))
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog", "supercategory": "cat"}],
    }
    for _ in range(rng.randint(0, 3)):
        change_json(rng, content)
    return content


def read_annotations(rng: Rng, folder: Path) -> None:
    """Read annotations as training, check-data and evaluation do."""
    file, images = folder / "annotations.json", folder / "images"
    data = json.dumps(annotations(rng)).encode()
    file.write_bytes(change_bytes(rng, data) if rng.random() < 0.2 else data)
    if not images.exists():
        images.mkdir()
        for i in (1, 2):
            Image.new("RGB", (64, 64)).save(images / f"{i}.png")
    with contextlib.suppress(UserError):
        read_leniently(folder)
    with contextlib.suppress(UserError):
        dataset = read_coco(file, None)
        as_coco(dataset)
        mirrored = instance_masks.transformed(dataset.masks, (-0.7, 0.7), (40.0, 0.0))
        mask_targets(mirrored, dataset.boxes, torch.arange(len(dataset.masks)), 28)


@functools.cache
def sound_checkpoints() -> dict[str, bytes]:
    """Return the bytes of one sound file of each format."""
    with tempfile.TemporaryDirectory() as folder:
        safetensors = (tiny.run(Path(folder)) / "last.safetensors").read_bytes()
    state, files = tiny.model().state_dict(), {"safetensors": safetensors}
    for name, is_zip in (("zip", True), ("legacy", False)):
        buffer = io.BytesIO()
        torch.save({"model": state}, buffer, _use_new_zipfile_serialization=is_zip)
        files[name] = buffer.getvalue()
    arrays = {name: value.numpy() for name, value in state.items()}
    return {**files, "pickle": pickle.dumps({"model": arrays, "__author__": "a"}, protocol=2)}


def change_header(rng: Rng, data: bytes) -> bytes:
    """Break the JSON header of a safetensors file, and keep the length of the header right."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if rng.random() < 0.5:
        described = json.loads(header["__metadata__"]["mrcnn"])
        change_json(rng, described)
        header["__metadata__"]["mrcnn"] = json.dumps(described)
    else:
        change_json(rng, header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def read_checkpoint(rng: Rng, folder: Path) -> None:
    """Read a damaged checkpoint of mrcnn or of PyTorch; nothing in it may run."""
    sound = sound_checkpoints()
    if rng.random() < 0.4:
        data = change_header(rng, sound["safetensors"])
    else:
        data = change_bytes(rng, rng.choice([*sound.values(), *hostile_files.HOSTILE.values()]))
    path = folder / f"weights{rng.choice(('.safetensors', '.pth', '.pkl'))}"
    path.write_bytes(data)
    with contextlib.suppress(UserError):
        checkpoints.load(path)
    assert not Path(hostile_files.CANARY).exists(), "code in the file was run"


def check_masks(rng: Rng, kinds: tuple[str, ...]) -> None:
    """Check the codecs and the drawing of masks; sound ones are compared with pycocotools."""
    seed = rng.getrandbits(60)
    for kind in kinds:
        mask_inputs.KINDS[kind](np.random.default_rng(seed))


TARGETS: dict[str, Callable[[Rng, Path], None]] = {
    "coco": read_annotations,
    "checkpoints": read_checkpoint,
    "rle": lambda rng, _: check_masks(rng, ("texts", "counts", "many texts")),
    "polygons": lambda rng, _: check_masks(rng, ("bounds", "drawings")),
}


def peak_megabytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def run(target: str, minutes: float, seed: int, cases: int) -> None:
    """Run cases of one target until the time is over or their number is reached."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # a hang ends the process
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for warm in range(3):
            TARGETS[target](Rng(warm), folder)
        before, end, done, more = peak_megabytes(), time.monotonic() + 60 * minutes, 0, 0
        while time.monotonic() < end and done < cases:
            Path(SEED).write_text(str(seed + done))
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                TARGETS[target](Rng(seed + done), folder)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            more = peak_megabytes() - before
            assert more < MEGABYTES, f"the case took {more} MB"
            done += 1
    print(f"{target}: {done} cases from seed {seed}, at most {more} MB more memory")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--cases", type=int, default=sys.maxsize, help="at most")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        libraries = sanitized.build(Path(folder))
        words = (args.target, str(args.minutes), str(args.seed), str(args.cases))
        try:
            print(sanitized.run_child(libraries, "avx2", CHILD, *words), end="")
        except AssertionError as error:
            sys.exit(f"{error}\n{args.target}: seed {(libraries / SEED).read_text()}")


if __name__ == "__main__":
    main()
