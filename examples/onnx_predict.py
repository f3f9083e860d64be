"""Detect objects in an image without mrcnn.

Usage: python onnx_predict.py model.onnx photo.jpg overlay.png

The model is a file of `mrcnn export --preprocess`. Needs onnxruntime, numpy and Pillow.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def mask_frame(box, cells, numerics):
    """Return the box (x1, y1, x2, y2) in the image that a mask of cells x cells covers."""
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
    """Interpolate a mask (M, M) of probabilities at pixel centres: (height, width) bool."""

    def weights(pixels, low, high):
        position = (np.arange(pixels) + 0.5 - low) / (high - low) * len(mask) - 0.5
        return np.maximum(0, 1 - abs(position[:, None] - np.arange(len(mask))))

    x1, y1, x2, y2 = frame
    return weights(height, y1, y2) @ mask @ weights(width, x1, x2).T >= 0.5


def main(model, path, out, threshold=0.5):
    """Print the detections in an image and write it with the masks drawn in."""
    session = onnxruntime.InferenceSession(model)
    about = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    image = np.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    outputs = session.run(["boxes", "scores", "labels", "counts", "masks"], {"images": image[None]})
    boxes, scores, labels, counts, masks = (values[0] for values in outputs)
    for i in range(counts):
        if scores[i] < threshold:
            break  # scores are in descending order
        name, box = about["class_names"][labels[i]], boxes[i].round().astype(int)
        print(name, f"{scores[i]:.3f}", box.tolist())
        frame = mask_frame(boxes[i].astype(float), masks.shape[1], about["numerics"])
        shape = paste(masks[i], frame, *image.shape[:2])
        image[shape] = image[shape] // 2 + np.array([0, 127, 60], np.uint8)
    Image.fromarray(image).save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
