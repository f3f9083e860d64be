"""VGG-11 to 19 (Simonyan and Zisserman, 2015), with and without batch norm, as a backbone.

VGG halves its map by max pooling after each of its five blocks. The first three stages end with the
last map of blocks 3, 4 and 5 before its pooling, at strides 4, 8 and 16. Such a map is the most
processed one of its stride, and the one that detectors use: Fast and Faster R-CNN pool RoIs from
conv5_3 of VGG-16, the map of the third stage. VGG has no convolution at stride 32. There, pool5
gives a fourth map without adding weights that were never trained on ImageNet.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mrcnn.models.backbones.common import Backbone, freeze, norm_by_name
from mrcnn.models.layers import conv

# Number of convolutions in each block, and whether norms follow them.
VGGS: dict[str, tuple[tuple[int, int, int, int, int], bool]] = {
    "vgg11": ((1, 1, 2, 2, 2), False),
    "vgg13": ((2, 2, 2, 2, 2), False),
    "vgg16": ((2, 2, 3, 3, 3), False),
    "vgg19": ((2, 2, 4, 4, 4), False),
    "vgg11_bn": ((1, 1, 2, 2, 2), True),
    "vgg13_bn": ((2, 2, 2, 2, 2), True),
    "vgg16_bn": ((2, 2, 3, 3, 3), True),
    "vgg19_bn": ((2, 2, 4, 4, 4), True),
}

WIDTHS = (64, 128, 256, 512, 512)  # channels of each block


class VGG(Backbone):
    """The stem (blocks 1 and 2) and the first stages (blocks 3, 4, 5 and pool5) of a VGG.

    Args:
        name: a key of `VGGS`.
        norm: a key of `NORMS` for names that end in "_bn"; "none" for the others, whose
            convolutions have biases only.
        norm_eps: added to variances; 1e-5 in torchvision.
        stages: how many of the four stages to build.
        frozen_stages: number of parts that are not trained: 1 freezes the stem (as Fast R-CNN
            does with VGG-16), 2 also block 3, …

    Raises:
        ValueError: if `norm` does not fit this network.
    """

    def __init__(
        self,
        name: str,
        *,
        norm: str,
        norm_eps: float = 1e-5,
        stages: int = 4,
        frozen_stages: int = 0,
    ) -> None:
        super().__init__()
        depths, self.with_norms = VGGS[name]
        if self.with_norms and norm == "none":
            raise ValueError(
                f"VGG: backbone {name!r} has norms, got norm 'none'; "
                f"choose another norm, or backbone {name.removesuffix('_bn')!r}"
            )
        if not self.with_norms and norm != "none":
            raise ValueError(
                f"VGG: backbone {name!r} has no norms, got norm {norm!r}; "
                f"choose norm 'none', or backbone {name + '_bn'!r}"
            )
        make_norm = norm_by_name(name, norm, norm_eps) if self.with_norms else None
        self.strides = [4 * 2**i for i in range(stages)]
        self.channels = [*WIDTHS[2:], WIDTHS[-1]][:stages]
        self.features = nn.ModuleDict()  # keys: indices in torchvision's sequence
        self.blocks: list[list[tuple[str, str]]] = []  # keys of convolutions and their norms
        channels, index = 3, 0
        for depth, width in zip(depths[: 2 + stages], WIDTHS, strict=False):
            block = []
            for _ in range(depth):
                layer, after = str(index), str(index + 1)
                self.features[layer] = nn.Conv2d(channels, width, 3, padding=1)
                if make_norm:
                    self.features[after] = make_norm(width)
                block.append((layer, after))
                channels = width
                index += 3 if self.with_norms else 2  # with the ReLU
            self.blocks.append(block)
            index += 1  # the pooling
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        layers = [
            [self.features[key] for pair in block for key in pair if key in self.features]
            for block in self.blocks
        ]
        freeze([layers[0] + layers[1], *layers[2:]], frozen_stages)

    def run_stem(self, pixels: Tensor) -> Tensor:
        """Return the map of block 2."""
        x = self.run_block(pixels, self.blocks[0])
        return self.run_block(F.max_pool2d(x, 2), self.blocks[1])

    def run_stage(self, index: int, x: Tensor) -> Tensor:
        """Return the map of block 3, 4 or 5, or of pool5."""
        x = F.max_pool2d(x, 2)
        return self.run_block(x, self.blocks[2 + index]) if index < 3 else x

    def run_block(self, x: Tensor, block: list[tuple[str, str]]) -> Tensor:
        """Return the map of one block, given as the keys of its convolutions and norms."""
        for layer, after in block:
            norm = self.features[after] if self.with_norms else None
            x = conv(x, self.features[layer], norm, relu=True)
        return x
