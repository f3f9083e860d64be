"""Weights and pictures that are random and yet the same on every machine.

Values come from the raw words of Philox, a counter-based generator whose stream is fixed; the key
is the checksum of a name. So golden numbers need neither files of weights nor a version of torch.
"""

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

# Standard deviations of the outputs over an image, with which many objects are found.
SPREAD = {
    "rpn.head.cls_logits": 3.0,
    "rpn.head.bbox_pred": 0.2,
    "roi_heads.box_predictor.cls_score": 2.0,
    "roi_heads.box_predictor.bbox_pred": 0.5,
    "roi_heads.mask_predictor.mask_fcn_logits": 2.0,
}


def uniform(name: str, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """Float64 in [low, high): the upper 53 bits of each word."""
    words = np.random.Philox(key=zlib.crc32(name.encode())).random_raw(math.prod(shape))
    return low + (words >> np.uint64(11)).reshape(shape) * 2.0**-53 * (high - low)


def random_state(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """A state dict of torchvision's names in which activations neither vanish nor explode.

    Weights of convolutions and linear layers have the variance 2 / inputs; biases, and means and
    variances of batch norms, are near 0 and 1; norms that end a block of a ResNet are small, so
    that its sums stay bounded.
    """
    last = ".bn3.weight" if "backbone.body.layer1.0.bn3.weight" in shapes else ".bn2.weight"
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.zeros((), dtype=torch.int64)
            continue
        if len(shape) > 1:
            high = math.sqrt(6 / math.prod(shape[1:]))
            low = -high
        elif name.startswith("backbone.body.layer") and name.endswith(last):
            low, high = 0.1, 0.3
        elif name.endswith(("weight", "running_var")):
            low, high = 0.5, 1.5
        else:
            low, high = -0.1, 0.1
        state[name] = torch.from_numpy(uniform(f"{seed}/{name}", shape, low, high)).float()
    return state


def random_image(height: int, width: int, seed: int) -> np.ndarray:
    """(height, width, 3) uint8: blocks of 8 x 8 pixels with noise on them."""
    cells = uniform(f"{seed}/cells", (-(-height // 8), -(-width // 8), 3), 20, 236)
    blocks = cells.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    return (blocks + uniform(f"{seed}/noise", (height, width, 3), -20, 20)).astype(np.uint8)
