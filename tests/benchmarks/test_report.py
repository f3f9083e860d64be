"""The table of docs/benchmarks.md and its figure from result files; benchmarks that start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import report

ROOT = Path(__file__).resolve().parents[2]
OPS = [f"ops.{path.stem}" for path in sorted((ROOT / "benchmarks/ops").glob("[!_]*.py"))]
MODELS = ["models.inference", "models.training", "models.variants"]

ABOUT = {
    "commit": "1234567",
    "device": "cpu",
    "machine": "Some CPU",
    "cores": 2,
    "torch": "2.13.0",
    "torchvision": "0.29.2",
    "allocator": {},
    "quick": False,
}
FAST = {
    "case": "1000 boxes",
    "threads": 1,
    "mrcnn_ms": 0.5,
    "mrcnn_min_ms": 0.4,
    "mrcnn_cpu_ms": 0.5,
    "peer": "torchvision",
    "peer_ms": 61.725,
    "ratio": 123.45,
    "floor_ms": 0.05,
    "percent_of_floor": 10.2,
    "error": 0.0,
}
ALONE = FAST | dict.fromkeys(("peer", "peer_ms", "ratio", "floor_ms", "percent_of_floor"))
PAGE = f"# Title\n\nbefore\n\n{report.BEGIN}\nold\n{report.END}\n\nafter\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a page and two good results; every case is shown."""
    monkeypatch.setattr(report, "CHOSEN", {})
    monkeypatch.setattr(report, "END_TO_END", ("roi_align",))
    (tmp_path / "page.md").write_text(PAGE)
    (tmp_path / "results").mkdir()
    write(tmp_path, "roi_align", [FAST, FAST | {"case": "slow", "ratio": 0.5, "threads": 2}])
    write(tmp_path, "match_boxes", [ALONE | {"case": "a | b"}])
    return tmp_path


def write(folder, name, rows, **changes):
    content = {"about": ABOUT | changes, "rows": rows, "notes": []}
    (folder / "results" / f"{name}.json").write_text(json.dumps(content))


def run(folder):
    return report.main(
        [
            f"--results={folder / 'results'}",
            f"--page={folder / 'page.md'}",
            f"--plot={folder / 'docs' / 'benchmarks.png'}",
        ]
    )


def test_table_stands_between_the_markers(folder):
    assert run(folder) == 0
    text = (folder / "page.md").read_text()
    before, rest = text.split(report.BEGIN)
    table, after = rest.split(report.END)
    assert before == "# Title\n\nbefore\n\n"
    assert after == "\n\nafter\n"
    lines = table.strip().splitlines()
    assert lines[2:5] == [
        "| `match_boxes` | a \\| b | 1 | 0.500 |  |  |  |  |",
        "| `roi_align` | 1000 boxes | 1 | 0.500 | torchvision | 61.7 | **123x** | 10% |",
        "| `roi_align` | slow | 2 | 0.500 | torchvision | 61.7 | **0.50x** | 10% |",
    ]
    assert lines[6:] == [
        "Some CPU, 2 cores; commit 1234567; PyTorch 2.13.0, torchvision 0.29.2; allocator default."
    ]
    assert run(folder) == 0
    assert (folder / "page.md").read_text() == text
    assert (folder / "docs" / "benchmarks.png").read_bytes().startswith(b"\x89PNG")


def test_operators_are_shown_with_one_thread(folder, monkeypatch):
    monkeypatch.setattr(report, "END_TO_END", ())
    assert run(folder) == 0
    text = (folder / "page.md").read_text()
    assert "| `roi_align` | 1000 boxes | 1 |" in text
    assert "slow" not in text


def test_other_commits_are_named(folder):
    write(folder, "match_boxes", [FAST], commit="7654321")
    write(folder, "nms", [FAST])
    assert run(folder) == 0
    assert "commit 1234567, 7654321 (match_boxes); " in (folder / "page.md").read_text()


def test_allocator_and_absent_torchvision_are_reported(folder):
    for path in (folder / "results").iterdir():
        path.unlink()
    write(folder, "match_boxes", [FAST], allocator={"B": "1", "A": "x"}, torchvision=None)
    assert run(folder) == 0
    assert "PyTorch 2.13.0; allocator A=x B=1." in (folder / "page.md").read_text()


def test_chosen_cases_only(folder, monkeypatch):
    monkeypatch.setitem(report.CHOSEN, "roi_align", ("1000 *",))
    assert run(folder) == 0
    assert "slow" not in (folder / "page.md").read_text()


def spoil(folder, change):
    """Change the content of one file."""
    path = folder / "results" / "roi_align.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


DAMAGES = {
    "uncommitted changes": (
        lambda c: c["about"].update(commit="7654321+changes"),
        "roi_align.json: measured with uncommitted changes (7654321+changes); commit and measure",
    ),
    "another machine": (
        lambda c: c["about"].update(machine="Other"),
        "results of different machine: match_boxes.json has 'Some CPU', roi_align.json has 'Other'",
    ),
    "a quick run": (
        lambda c: c["about"].update(quick=True), "roi_align.json: measured with --quick",
    ),
    "no commit": (
        lambda c: c["about"].pop("commit"), "roi_align.json: damaged: about lacks 'commit'",
    ),
    "no about": (lambda c: c.pop("about"), "roi_align.json: damaged: no object with 'about'"),
    "no rows": (lambda c: c.update(rows=[]), "roi_align.json: damaged: no rows"),
    "a row that is not an object": (
        lambda c: c["rows"].append(3), "roi_align.json: damaged: row 2 is not an object",
    ),
    "no threads": (
        lambda c: c["rows"][1].pop("threads"),
        "roi_align.json: damaged: row 1 has threads = None",
    ),
    "time in words": (
        lambda c: c["rows"][0].update(mrcnn_ms="fast"),
        "roi_align.json: damaged: row 0 has mrcnn_ms = 'fast'",
    ),
    "NaN": (
        lambda c: c["rows"][0].update(ratio=float("nan")),
        "roi_align.json: damaged: row 0 has ratio = nan",
    ),
    "no time at all": (
        lambda c: c["rows"][0].update(mrcnn_ms=0),
        "roi_align.json: damaged: row 0 has mrcnn_ms = 0",
    ),
    "a ratio to nothing": (
        lambda c: c["rows"][0].update(peer=None),
        "roi_align.json: damaged: row 0 has only some of peer, peer_ms, ratio",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_results_change_nothing(folder, case, capsys):
    change, message = DAMAGES[case]
    spoil(folder, change)
    assert run(folder) == 1
    assert f"report: {message}" in capsys.readouterr().err
    assert (folder / "page.md").read_text() == PAGE
    assert not (folder / "docs").exists()


def test_a_file_that_is_not_json(folder, capsys):
    (folder / "results" / "nms.json").write_text('{"about": {')
    assert run(folder) == 1
    assert "report: nms.json: damaged: " in capsys.readouterr().err


def test_a_chosen_case_that_is_absent(folder, capsys, monkeypatch):
    monkeypatch.setitem(report.CHOSEN, "match_boxes", ("large *",))
    assert run(folder) == 1
    assert "match_boxes.json: no case matches 'large *'" in capsys.readouterr().err


def test_no_results(folder, capsys):
    for path in (folder / "results").iterdir():
        path.unlink()
    assert run(folder) == 1
    assert "report: no results:" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", report.BEGIN, f"{report.END}\n{report.BEGIN}", PAGE * 2])
def test_a_page_without_markers(folder, text, capsys):
    (folder / "page.md").write_text(text)
    assert run(folder) == 1
    assert str(report.BEGIN) in capsys.readouterr().err
    assert (folder / "page.md").read_text() == text
    assert not (folder / "docs").exists()


def test_the_page_shows_the_results():
    table = report.table(*report.read_results(ROOT / "benchmarks" / "results" / "cpu"))
    page = ROOT / "docs" / "benchmarks.md"
    assert report.with_table(page, table) == page.read_text()


def start(module, *options):
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *options],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "module", [*OPS, *MODELS, "models.table", "gpu.measure", "coco_metrics", "report"]
)
def test_help(module):
    done = start(module, "--help")
    assert done.returncode == 0, done.stderr
    assert f"python -m benchmarks.{module}" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_reported():
    done = start("gpu.measure", "--quick")
    assert done.returncode == 1
    assert done.stderr == (
        f"no GPU: PyTorch {torch.__version__} does not find one; nothing is measured\n"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_check_of_a_gpu_stops_where_there_is_none(tmp_path):
    done = subprocess.run(
        ["bash", ROOT / "benchmarks/gpu/gpu_check.sh", tmp_path / "out"],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.startswith(f"gpu_check: no GPU: PyTorch {torch.__version__}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("module", [*OPS, *MODELS])
def test_quick_runs_write_what_the_report_reads(module, tmp_path):
    out = tmp_path / "results.json"
    done = start(module, "--quick", "--threads", "1", "--out", str(out))
    assert done.returncode == 0, done.stderr
    facts, lines = report.read_file(out)
    assert facts["quick"]
    assert lines
