"""An evaluation reads, checks and scores everything once, also for its report and its figure."""

from collections import Counter

import pytest
from pycocotools.cocoeval import COCOeval

from mrcnn import evaluate, report, train
from mrcnn.evaluation import evaluator, result_files, truth
from mrcnn.io import plain_files
from tests.helpers import short_runs
from tests.helpers.random_results import random_set, write_files
from tests.reports.test_run_report import make_run


@pytest.fixture
def calls(monkeypatch) -> Counter[str]:
    """Number of calls: of COCOeval.evaluate, of reading each file, of filling and checking."""
    counts: Counter[str] = Counter()

    def counted(function, name_of):
        def wrapper(*args, **kwargs):
            counts[name_of(*args)] += 1
            return function(*args, **kwargs)

        return wrapper

    monkeypatch.setattr(COCOeval, "evaluate", counted(COCOeval.evaluate, lambda *_: "COCOeval"))
    opened = counted(plain_files.open_plain, lambda path, *_: path.name)
    monkeypatch.setattr(plain_files, "open_plain", opened)
    monkeypatch.setattr(truth, "filled_truth", counted(truth.filled_truth, lambda *_: "filled"))
    for module in (evaluator, result_files):
        monkeypatch.setattr(
            module, "check_entries", counted(result_files.check_entries, lambda *_: "checked")
        )
    return counts


def test_the_command(tmp_path, calls):
    flags = write_files(tmp_path, *random_set(2))
    flags += ["--errors", "--plots", tmp_path / "errors.png", "--json", tmp_path / "metrics.json"]
    evaluate.main([str(flag) for flag in flags])
    names = ("truth.json", "results.json", "filled", "checked", "COCOeval")
    assert [calls[name] for name in names] == [1, 1, 1, 1, 2]  # boxes and masks


def test_the_report(tmp_path, calls):
    report.main([str(make_run(tmp_path))])
    names = ("val.json", "val_results.json", "filled", "checked", "COCOeval")
    assert [calls[name] for name in names] == [1, 1, 1, 1, 2]


def test_a_training_run(tmp_path, calls):
    """Three evaluations; the annotations are read for training and for the first of these."""
    data = short_runs.write_data(tmp_path / "data")
    assert short_runs.run(data, tmp_path / "run") == 0
    assert (tmp_path / "run" / "report.html").is_file()
    assert [calls[name] for name in ("val.json", "val_results.json")] == [2, 0]
    assert [calls[name] for name in ("filled", "checked", "COCOeval")] == [1, 3, 6]
    # After a resume the last evaluation, which is not the best, needs the file of the best once.
    (tmp_path / "run" / "state" / "00000020.safetensors").unlink()
    calls.clear()
    assert train.main(["--resume", str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert [calls[name] for name in ("val.json", "val_results.json")] == [2, 1]
    assert [calls[name] for name in ("filled", "checked", "COCOeval")] == [1, 2, 4]
