"""bench/sparsity.py on a tiny model: the page has every pattern, and its figures behave."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def rows(text, pattern):
    """The cells of a pattern's rows in one table, numbers only."""
    means = re.sub(r" ± [\d.]+", "", text)
    return [[float(cell) for cell in re.findall(r"[-\d.]+(?= ?(?:%|x|\||\(|$))", line.split("|", 2)[2])]
            for line in means.splitlines() if line.startswith(f"| {pattern} |")]


def test_the_page(build, tiny_demo, tmp_path):
    command = [sys.executable, ROOT / "bench/sparsity.py", "--aerogel", build / "aerogel", "--model", tiny_demo, "--steps", 2, "--start-step", 1, "--frames", 8,
               "--prompt", "red circle moves left", "blue star turns", "--recorded", 1,
               "--output", tmp_path, "--work", tmp_path / "work"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "sparsity.md").read_text()
    videos, layers, skipped, arm = re.split(r"## .*", page)
    for pattern in ("rf_v1", "rf_v2", "ada_bsa"):
        for name in (pattern, f"{pattern}, centroids", *(["rf_v1, by error"] if pattern == "rf_v1" else [])):
            table = rows(videos, name)
            assert [row[0] for row in table] == [50, 70, 80, 90]
            densities = [row[1] for row in table]
            assert densities == sorted(densities, reverse=True) and densities[0] > densities[-1]
        errors = rows(skipped, pattern)
        assert len(errors) == 4 and all(0 < with_centroids < 1 > plain > 0 for _, plain, with_centroids, *_ in errors)
        for _, cosine, worst, chosen, best, gap in (row[:3] + row[-3:] for row in rows(layers, pattern)):
            assert 0 < worst <= cosine <= 1 and 0 < chosen <= best <= 100 and abs(best - chosen - gap) < 0.11
    assert videos.count(" ± ") == 3 * 28 + 1 and layers.count(" ± ") == 2 * 12
    arm = re.sub(r" ± [\d.]+", "", arm)
    judged = [[float(n) for n in re.findall(r"[\d.]+", line)] for line in arm.splitlines() if re.match(r"\| \d+% ", line)]
    assert [row[0] for row in judged] == [asked for asked in (50, 70, 80, 90) for _ in range(4)]
    assert all(heads == 6 and agreed <= 100 and excess >= 1 for _, heads, agreed, excess in judged)
    assert all((tmp_path / "images" / name).stat().st_size > 1000 for name in ("sparsity.png", "sparsity_frames.png"))
