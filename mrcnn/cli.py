"""The console command `mrcnn`: a verb, and what belongs to it."""

from __future__ import annotations

import difflib
import importlib
import sys

# Verb -> module with a `main(argv)`, and one line of help. Imported when chosen.
VERBS = {
    "train": ("mrcnn.train", "train on your own images, or on drawn shapes"),
    "predict": ("mrcnn.predict", "find the objects in images: overlays and JSON"),
    "serve": ("mrcnn.serve", "a page on this machine: drop pictures, see their objects"),
    "evaluate": ("mrcnn.evaluate", "AP of boxes and masks on a data set"),
    "compare": ("mrcnn.compare", "two runs or result files side by side"),
    "report": ("mrcnn.report", "one page about a finished run: curves, scores, errors, pictures"),
    "check-data": ("mrcnn.check_data", "what is wrong in a data set, and what to train it with"),
    "export": ("mrcnn.export", "a trained model as one file: .pt2 or .onnx"),
    "convert": ("mrcnn.convert", "detectors from and to other frameworks"),
    "convert-data": ("mrcnn.convert_data", "a data set of any format as COCO files"),
    "doctor": ("mrcnn.doctor", "versions, which kernels are built, and how to mend what is not"),
}


def main(argv: list[str] | None = None) -> int:
    """Call a verb; returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    verb, *rest = argv
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        print(f"mrcnn: no verb {verb!r:.60}{hint}\n\n{usage()}", file=sys.stderr)
        return 2
    try:
        module = importlib.import_module(VERBS[verb][0])
        from mrcnn.flags import run
    except ImportError as error:
        print(_advice(error), file=sys.stderr)
        return 2
    return run(module.main, rest)


def usage() -> str:
    """The help text."""
    verbs = "\n".join(f"  {verb:<13}{text}" for verb, (_, text) in VERBS.items())
    return f"usage: mrcnn VERB [flags]\n\n{verbs}\n\nmrcnn VERB --help shows the flags of a verb."


def _advice(error: ImportError) -> str:
    """What to do about a library that is missing; kernels bring their own advice."""
    text = str(error)
    if text.startswith("mrcnn: "):
        return text
    return f"mrcnn: a library is missing or broken: {text}\n  Run: pip install -r requirements.txt"


if __name__ == "__main__":
    sys.exit(main())
