"""Time one training step of Mask R-CNN R50-FPN, eager and compiled, against torchvision.

A step is forward, backward and SGD with momentum on two 800 x 1216 images with 10 objects each, in
float32. Both sides have the same weights (see benchmarks/models/twins.py), the same trainable
layers and torchvision's sampling: 256 anchors and 512 RoIs per image (with --quick 128 x 192 pixels
and 32 RoIs). Masks are polygons for mrcnn and bitmaps for torchvision, as its models require;
drawing the bitmaps is not timed. Both keep 1000 proposals per image; torchvision's default in
training is 2000.

The learning rate is 0, so that the weights stay the same. The losses are printed next to each
other: each side draws its own random samples, so they agree only roughly. Nothing is timed if their
sums differ by more than half. Compiling takes some minutes. The peer of each line is the faster of
torchvision eager and compiled.

    python -m benchmarks.models.training --threads 2
"""

from __future__ import annotations

import math

import torch
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from benchmarks.harness import about, finish, measure, parse, row
from benchmarks.models.twins import CLASSES, build_twins
from mrcnn.models import MaskRCNN
from mrcnn.ops.instance_masks import InstanceMasks
from mrcnn.structures import ImageBatch, Targets

PEER = "torchvision"
WAYS = ("eager", "compiled")
IMAGES, OBJECTS, CORNERS = 2, 10, 32


def make_objects(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw ellipses anywhere, up to half as wide and high as the image.

    Returns:
        Boxes (N, G, 4), labels (N, G) and polygons (N, G, CORNERS, 2).
    """
    frame = torch.tensor([width, height], dtype=torch.float32)
    size = (0.05 + 0.45 * torch.rand(IMAGES, OBJECTS, 2)) * frame
    corner = torch.rand(IMAGES, OBJECTS, 2) * (frame - size)
    angle = torch.arange(CORNERS) * 2 * math.pi / CORNERS
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    polygons = (corner + size / 2)[:, :, None] + size[:, :, None] / 2 * circle
    labels = torch.randint(CLASSES, (IMAGES, OBJECTS))
    return torch.cat([corner, corner + size], dim=2), labels, polygons


def mrcnn_targets(
    boxes: Tensor, labels: Tensor, polygons: Tensor, height: int, width: int
) -> Targets:
    count = IMAGES * OBJECTS
    masks = InstanceMasks(
        points=polygons.reshape(-1, 2).double(),
        ring_start=torch.arange(count + 1) * CORNERS,
        instance_ring=torch.arange(count + 1),
        counts=torch.zeros(0, dtype=torch.int32),
        instance_count=torch.zeros(count + 1, dtype=torch.int64),
        frame=torch.tensor([[height, width]] * count),
        transform=torch.tensor([[1.0, 1.0, 0.0, 0.0]] * count, dtype=torch.float64),
    )
    return Targets(boxes, labels, torch.arange(count).view(IMAGES, OBJECTS), masks)


def torchvision_targets(
    boxes: Tensor, labels: Tensor, polygons: Tensor, height: int, width: int
) -> list[dict[str, Tensor]]:
    def bitmaps(rings: Tensor) -> Tensor:
        flat = rings.flatten(1).tolist()
        drawn = coco_mask.decode(coco_mask.frPyObjects(flat, height, width))
        return torch.from_numpy(drawn).permute(2, 0, 1).contiguous()

    return [
        {"boxes": boxes[n], "labels": labels[n] + 1, "masks": bitmaps(polygons[n])}
        for n in range(IMAGES)
    ]


class Step:
    """Forward, backward and update; keeps the losses."""

    def __init__(self, model: nn.Module, compile: bool = False) -> None:
        self.model = model.train()
        self.run = torch.compile(self.forward) if compile else self.forward
        trainable = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trainable, lr=0.0, momentum=0.9, weight_decay=1e-4)
        self.losses: dict[str, Tensor] = {}

    def forward(self) -> dict[str, Tensor]:
        raise NotImplementedError

    def __call__(self) -> None:
        self.losses = self.run()
        total = torch.stack(list(self.losses.values())).sum()
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()


class MrcnnStep(Step):
    def __init__(
        self, model: MaskRCNN, pixels: Tensor, targets: Targets, compile: bool = False
    ) -> None:
        super().__init__(model, compile)
        self.images = ImageBatch(pixels, torch.tensor([pixels.shape[2:]] * IMAGES))
        self.targets = targets

    def forward(self) -> dict[str, Tensor]:
        return self.model(self.images, self.targets)


class TorchvisionStep(Step):
    def __init__(
        self,
        model: nn.Module,
        pixels: Tensor,
        targets: list[dict[str, Tensor]],
        compile: bool = False,
    ) -> None:
        from torchvision.models.detection.image_list import ImageList

        super().__init__(model, compile)
        self.images = ImageList(pixels, [(pixels.shape[2], pixels.shape[3])] * IMAGES)
        self.targets = targets

    def forward(self) -> dict[str, Tensor]:
        features = self.model.backbone(self.images.tensors)
        proposals, losses = self.model.rpn(self.images, features, self.targets)
        sizes = self.images.image_sizes
        _, head_losses = self.model.roi_heads(features, proposals, sizes, self.targets)
        return {**losses, **head_losses}


def main() -> None:
    args = parse(__doc__, threads=(2,), repeats=5, ways=WAYS)
    torch._dynamo.config.recompile_limit = 64  # torchvision's graph has many breaks
    height, width = (128, 192) if args.quick else (800, 1216)
    facts = about(args)
    torch.set_num_threads(max(args.threads))
    pixels = torch.randn(IMAGES, 3, height, width)
    model, _, peer_model = build_twins(pixels[:1], roi_samples=32 if args.quick else 512)
    objects = make_objects(height, width)
    targets = mrcnn_targets(*objects, height, width)
    sides: dict[str, Step] = {}
    for way in args.ways:
        sides[way] = MrcnnStep(model, pixels, targets, way == "compiled")
        if peer_model is not None:
            bitmaps = torchvision_targets(*objects, height, width)
            sides[f"{PEER} {way}"] = TorchvisionStep(peer_model, pixels, bitmaps, way == "compiled")
    notes = []
    for name, step in sides.items():
        step()
        notes.append(f"losses of {name}: " + _listed(step.losses))
    sums = {name: sum(step.losses.values()).item() for name, step in sides.items()}
    for way in args.ways if peer_model is not None else ():
        assert abs(sums[way] - sums[f"{PEER} {way}"]) < 0.5 * sums[f"{PEER} {way}"], notes
    rows = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        times = measure(sides, args.repeats)
        peers = [name for name in times if name.startswith(PEER)]
        peer = min(peers, key=lambda name: times[name].median, default=None)
        for way in args.ways:
            chosen = {"mrcnn": times[way]} | ({peer: times[peer]} if peer else {})
            rows.append(row(f"step, {IMAGES} x {height} x {width}, {way}", chosen, peer=peer))
        if peers:
            readings = (f"{name} {1e3 * times[name].median:.0f} ms" for name in peers)
            notes.append(f"{threads} threads: " + ", ".join(readings))
    finish(args, facts, rows, notes)


def _listed(losses: dict[str, Tensor]) -> str:
    names = sorted(losses)
    return ", ".join(f"{name.removeprefix('loss_')} {losses[name].item():.3f}" for name in names)


if __name__ == "__main__":
    main()
