"""Objects of a picture, without mrcnn: python onnx_predict.py model.onnx photo.jpg found.png

For a file of `mrcnn export --preprocess`; needs onnxruntime, numpy and Pillow.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def mask_frame(box, cells, numerics):
    """The part of the picture, x1, y1, x2, y2, that a mask of cells x cells is spread over."""
    if not numerics["whole_pixel_paste"]:
        return box
    box = box - np.array([0, 0, 1, 1]) * numerics["last_pixel"]
    center, half = (box[2:] + box[:2]) / 2, (box[2:] - box[:2]) / 2 * (cells + 2) / cells
    first, last = np.trunc(center - half), np.trunc(center + half)
    extent = np.maximum(last - first + 1, 1)
    return np.concatenate([first, first + extent]) + np.repeat([1, -1], 2) * np.tile(
        extent / (cells + 2), 2
    )


def paste(mask, frame, height, width):
    """(height, width) bool: mask (M, M) of probabilities, interpolated at the pixels' centres."""

    def weights(pixels, low, high):
        at = (np.arange(pixels) + 0.5 - low) / (high - low) * len(mask) - 0.5
        return np.maximum(0, 1 - abs(at[:, None] - np.arange(len(mask))))

    x1, y1, x2, y2 = frame
    return weights(height, y1, y2) @ mask @ weights(width, x1, x2).T >= 0.5


def main(model, picture, out, threshold=0.5):
    session = onnxruntime.InferenceSession(model)
    about = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    image = np.array(ImageOps.exif_transpose(Image.open(picture)).convert("RGB"))
    outputs = session.run(["boxes", "scores", "labels", "counts", "masks"], {"images": image[None]})
    boxes, scores, labels, counts, masks = (values[0] for values in outputs)
    for i in range(counts):
        if scores[i] < threshold:
            break  # best first
        name, box = about["class_names"][labels[i]], boxes[i].round().astype(int)
        print(name, f"{scores[i]:.3f}", box.tolist())
        frame = mask_frame(boxes[i].astype(float), masks.shape[1], about["numerics"])
        shape = paste(masks[i], frame, *image.shape[:2])
        image[shape] = image[shape] // 2 + np.array([0, 127, 60], np.uint8)
    Image.fromarray(image).save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
