"""The recipe of a sparse pattern: one file in src/sparse/patterns and one row of its table, nothing else. A sample is compiled beside the
others and linked in front of the built library; it then runs, under its name, with checks and flags that read its row."""

import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from source_tree import ROOT

sys.path.insert(0, str(ROOT / "tests/sparse"))
import rainfusion_reference as reference
from sparse_calls import check_output, random_call, run

PATTERN = """// A sample: every query sees the keys of its own block.
#include "sparse/patterns/pattern.h"

namespace aerogel {
namespace {

BlockGrid own_blocks_grid(const SparseGeometry& side) {
    const std::int64_t blocks = side.blocks();
    BlockGrid grid(static_cast<std::size_t>(blocks * blocks), 0);
    for (std::int64_t i = 0; i < blocks; ++i) grid[static_cast<std::size_t>(i * blocks + i)] = 1;
    keep_protected(side, grid);
    return grid;
}

}  // namespace

namespace head_patterns {
extern const HeadPattern own_blocks = {
    .name = "own_blocks", .q_order = raster_order, .k_order = raster_order, .cells = inside_cells, .static_blocks = own_blocks_grid};
}  // namespace head_patterns

}  // namespace aerogel
"""
ROW = """    {.name = "own_blocks",
     .heads = {&head_patterns::own_blocks},
     .reads = {"sparsity", "block_size", "cdf_threshold"},
     .videos = Videos::one,
     .takes_mask = true},
"""


def commands(build, target):
    done = subprocess.run(["ninja", "-C", build, "-t", "commands", target], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def extended(build, tmp_path_factory):
    """A folder with the programs of the build, linked with one pattern more."""
    folder = tmp_path_factory.mktemp("extended")
    table = (ROOT / "src/sparse/patterns/table.cpp").read_text()
    table = re.sub(r"(extern const HeadPattern kDense)", r"\1, own_blocks", table, count=1)
    head, brace, rest = table.partition("kTypes[] = {\n")
    assert brace
    (folder / "table.cpp").write_text(head + brace + ROW + rest)
    (folder / "own_blocks.cpp").write_text(PATTERN)
    others = [p for p in sorted((ROOT / "src/sparse/patterns").glob("*.cpp")) if p.name != "table.cpp"]
    unit = folder / "patterns.cpp"
    unit.write_text("".join(f'#include "{path}"\n' for path in [*others, folder / "own_blocks.cpp", folder / "table.cpp"]))
    entries = json.loads((build / "compile_commands.json").read_text())
    compiled = re.compile(r"src_sparse_patterns|src/sparse/patterns/table\.cpp")  # at once or one by one
    words = shlex.split(next(e["command"] for e in entries if compiled.search(e["file"])))
    at = words.index("-o")
    words[at + 1 : at + 4] = [str(unit.with_suffix(".o")), "-c", str(unit)]
    subprocess.run(words, cwd=build, check=True)
    (folder / "tests").mkdir()
    for target, program in (("sparse_dump", "tests/sparse_dump"), ("aerogel_cli", "aerogel")):
        link = next(line for line in reversed(commands(build, target)) if f"-o {program} " in line)
        link = link.replace(f"-o {program} ", f"{unit.with_suffix('.o')} -o {folder / program} ")
        subprocess.run(link, cwd=build, shell=True, check=True)
    return folder


def test_a_new_pattern_runs(extended, tmp_path):
    video = reference.Video((33, 4, 4), 5, 16, 0.5)
    call = random_call(1, video, "own_blocks")
    result = run(extended, tmp_path, call)
    assert result.types == ["own_blocks"] * 2
    kept = np.arange(video.blocks)
    always = (kept * video.block < video.sink) | ((kept + 1) * video.block > video.video)
    mask = np.eye(video.blocks, dtype=bool) | always[:, None] | always[None, :]
    order = reference.raster(video)
    check_output(call, result, lambda b, h: (mask, order, order))


def test_flags_and_messages_know_it(extended, tmp_path):
    text = subprocess.run([extended / "aerogel", "generate", "--help"], capture_output=True, text=True, check=True).stdout
    assert re.search(r"own_blocks, none, rf_v1, rf_v2, rf_v3 or\s+ada_bsa", text)
    assert re.search(r"own_blocks, ada_bsa: share of each row's attention", text)
