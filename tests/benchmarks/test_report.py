"""The README's table and the plot from results; benchmarks that start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*_bench.py"))
sys.path.insert(0, str(ROOT / "benchmarks"))

import report  # noqa: E402

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
    "ours_ms": 0.5,
    "ours_min_ms": 0.4,
    "ours_cpu_ms": 0.5,
    "peer": "torchvision",
    "peer_ms": 61.725,
    "ratio": 123.45,
    "floor_ms": 0.05,
    "percent_of_floor": 10.2,
    "error": 0.0,
}
ALONE = FAST | dict.fromkeys(("peer", "peer_ms", "ratio", "floor_ms", "percent_of_floor"))
README = f"# Title\n\nbefore\n\n{report.BEGIN}\nold\n{report.END}\n\nafter\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a README and, below it, two good results; every case is shown."""
    monkeypatch.setattr(report, "CHOSEN", {})
    monkeypatch.setattr(report, "END_TO_END", ("roi_align",))
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "results").mkdir()
    write(tmp_path, "roi_align", [FAST, FAST | {"case": "slow", "ratio": 0.5, "threads": 2}])
    write(tmp_path, "match", [ALONE | {"case": "a | b"}])
    return tmp_path


def write(place, name, rows, **changes):
    content = {"about": ABOUT | changes, "rows": rows, "notes": []}
    (place / "results" / f"{name}.json").write_text(json.dumps(content))


def run(place):
    return report.main(
        [
            f"--results={place / 'results'}",
            f"--readme={place / 'README.md'}",
            f"--plot={place / 'docs' / 'benchmarks.png'}",
        ]
    )


def test_table_stands_between_the_markers(place):
    assert run(place) == 0
    text = (place / "README.md").read_text()
    before, rest = text.split(report.BEGIN)
    table, after = rest.split(report.END)
    assert before == "# Title\n\nbefore\n\n"
    assert after == "\n\nafter\n"
    lines = table.strip().splitlines()
    assert lines[2:5] == [
        "| match | a \\| b | 1 | 0.500 |  |  |  |  |",
        "| roi align | 1000 boxes | 1 | 0.500 | torchvision | 61.7 | **123x** | 10% |",
        "| roi align | slow | 2 | 0.500 | torchvision | 61.7 | **0.50x** | 10% |",
    ]
    assert lines[6:] == [
        "Some CPU, 2 cores; commit 1234567; PyTorch 2.13.0, torchvision 0.29.2; allocator default."
    ]
    assert run(place) == 0
    assert (place / "README.md").read_text() == text
    assert (place / "docs" / "benchmarks.png").read_bytes().startswith(b"\x89PNG")


def test_operators_are_shown_with_one_thread(place, monkeypatch):
    monkeypatch.setattr(report, "END_TO_END", ())
    assert run(place) == 0
    text = (place / "README.md").read_text()
    assert "| roi align | 1000 boxes | 1 |" in text
    assert "slow" not in text


def test_other_commits_are_named(place):
    write(place, "match", [FAST], commit="7654321")
    write(place, "nms", [FAST])
    assert run(place) == 0
    assert "commit 1234567, 7654321 (match); " in (place / "README.md").read_text()


def test_allocator_and_absent_torchvision_are_told(place):
    for path in (place / "results").iterdir():
        path.unlink()
    write(place, "match", [FAST], allocator={"B": "1", "A": "x"}, torchvision=None)
    assert run(place) == 0
    assert "PyTorch 2.13.0; allocator A=x B=1." in (place / "README.md").read_text()


def test_chosen_cases_only(place, monkeypatch):
    monkeypatch.setitem(report.CHOSEN, "roi_align", ("1000 *",))
    assert run(place) == 0
    assert "slow" not in (place / "README.md").read_text()


def spoil(place, change):
    """Changes the content of one file."""
    path = place / "results" / "roi_align.json"
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
        "results of different machine: match.json has 'Some CPU', roi_align.json has 'Other'",
    ),
    "a quick run": (
        lambda c: c["about"].update(quick=True), "roi_align.json: measured with --quick",
    ),
    "no commit": (
        lambda c: c["about"].pop("commit"), "roi_align.json: damaged: about lacks 'commit'",
    ),
    "no about": (lambda c: c.pop("about"), "roi_align.json: damaged: no object with 'about'"),
    "no rows": (lambda c: c.update(rows=[]), "roi_align.json: damaged: no rows"),
    "a row that is none": (
        lambda c: c["rows"].append(3), "roi_align.json: damaged: row 2 is no object",
    ),
    "no threads": (
        lambda c: c["rows"][1].pop("threads"),
        "roi_align.json: damaged: row 1 has threads = None",
    ),
    "time in words": (
        lambda c: c["rows"][0].update(ours_ms="fast"),
        "roi_align.json: damaged: row 0 has ours_ms = 'fast'",
    ),
    "NaN": (
        lambda c: c["rows"][0].update(ratio=float("nan")),
        "roi_align.json: damaged: row 0 has ratio = nan",
    ),
    "no time at all": (
        lambda c: c["rows"][0].update(ours_ms=0),
        "roi_align.json: damaged: row 0 has ours_ms = 0",
    ),
    "a ratio to nothing": (
        lambda c: c["rows"][0].update(peer=None),
        "roi_align.json: damaged: row 0 has only some of peer, peer_ms, ratio",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_results_change_nothing(place, case, capsys):
    change, message = DAMAGES[case]
    spoil(place, change)
    assert run(place) == 1
    assert f"report: {message}" in capsys.readouterr().err
    assert (place / "README.md").read_text() == README
    assert not (place / "docs").exists()


def test_a_file_that_is_no_json(place, capsys):
    (place / "results" / "nms.json").write_text('{"about": {')
    assert run(place) == 1
    assert "report: nms.json: damaged: " in capsys.readouterr().err


def test_a_chosen_case_that_is_absent(place, capsys, monkeypatch):
    monkeypatch.setitem(report.CHOSEN, "match", ("large *",))
    assert run(place) == 1
    assert "match.json: no case is like 'large *'" in capsys.readouterr().err


def test_no_results(place, capsys):
    for path in (place / "results").iterdir():
        path.unlink()
    assert run(place) == 1
    assert "report: no results:" in capsys.readouterr().err


@pytest.mark.parametrize("readme", ["", report.BEGIN, f"{report.END}\n{report.BEGIN}", README * 2])
def test_a_readme_without_place(place, readme, capsys):
    (place / "README.md").write_text(readme)
    assert run(place) == 1
    assert str(report.BEGIN) in capsys.readouterr().err
    assert (place / "README.md").read_text() == readme
    assert not (place / "docs").exists()


def test_the_readme_has_a_place():
    text = (ROOT / "README.md").read_text()
    assert text.count(report.BEGIN) == text.count(report.END) == 1


def start(script, *options):
    return subprocess.run(
        [sys.executable, ROOT / "benchmarks" / script, *options],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("script", [*(path.name for path in BENCHMARKS), "report.py"])
def test_help(script):
    done = start(script, "--help")
    assert done.returncode == 0, done.stderr
    assert f"python benchmarks/{script}" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_said():
    done = start("gpu_bench.py", "--quick")
    assert done.returncode == 1
    assert done.stderr == (f"no GPU: PyTorch {torch.__version__} finds none; nothing is measured\n")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_check_of_a_gpu_stops_where_there_is_none(tmp_path):
    done = subprocess.run(
        ["bash", ROOT / "benchmarks/gpu_check.sh", tmp_path / "out"],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.startswith(f"gpu_check: no GPU: PyTorch {torch.__version__}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("script", [p.name for p in BENCHMARKS if p.name != "gpu_bench.py"])
def test_quick_runs_write_what_the_report_reads(script, tmp_path):
    out = tmp_path / "found.json"
    done = start(script, "--quick", "--threads", "1", "--out", str(out))
    assert done.returncode == 0, done.stderr
    facts, lines = report.read_file(out)
    assert facts["quick"]
    assert lines
