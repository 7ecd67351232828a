"""A sample of each recipe of CONTRIBUTING.md: what it adds touches no more than its row says, builds, and works at once.

The samples go into a copy of the sources. Only the files they touch are compiled, and linked before the libraries of this build: the linker
takes the first definition of each. ELSEWHERE names what samples the other recipes."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from source_tree import ROOT

sys.path.insert(0, str(ROOT / "tests/sparse"))
import rainfusion_reference as reference
from sparse_calls import check_output, random_call, run

BUILD = Path(os.environ.get("AEROGEL_BUILD", "build/release")).resolve()


@dataclass
class Sample:
    """What one recipe's sample adds: new files, and lines after (the text of) a line of files that are there."""

    recipe: str  # the first cell of its row
    new: dict = field(default_factory=dict)
    lines: dict = field(default_factory=dict)  # path -> [(line before, added text)]


SCHEME = Sample("a scheme whose formats exist", lines={"src/quant/schemes.cpp": [("kSchemes = std::to_array", """
    {.name = "W4A8_SAMPLE",
     .weight = Format::mxfp4_dual,
     .activation = Activation::mxfp8,
     .summary = "a sample"},""")]})

ALGORITHM = Sample("a quantization algorithm", new={"src/quant/algorithms/halves.cpp": """
// A sample: the largest magnitude becomes 64.
#include "formats/int8.h"
#include "formats/scaled.h"
#include "quant/algorithms/algorithm.h"

namespace aerogel {

QuantizedTensor halves(const TensorView& weight, const WeightOptions& options) {
    return encode_int8(weight, minmax_scale(weight, options.group_size, 64.0F, kSmallestIntegerScale), Tensor());
}

}  // namespace aerogel
"""}, lines={"src/quant/algorithms/table.cpp": [
    ("namespace aerogel {", "QuantizedTensor halves(const TensorView& weight, const WeightOptions& options);"),
    ("kAlgorithms = std::to_array", '    {"halves", Format::int8, halves, "a sample"},')]})

PATTERN = Sample("a sparse pattern", new={"src/sparse/patterns/own_blocks.cpp": """
// A sample: every query sees the keys of its own block.
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
extern const HeadPattern kOwnBlocks = {
    .name = "own_blocks", .q_order = raster_order, .k_order = raster_order, .cells = inside_cells, .static_blocks = own_blocks_grid};
}  // namespace head_patterns

}  // namespace aerogel
"""}, lines={"src/sparse/patterns/table.cpp": [("namespace head_patterns {", "extern const HeadPattern kOwnBlocks;"), ("kTypes[] = {", """
    {.name = "own_blocks",
     .heads = {&head_patterns::kOwnBlocks},
     .reads = {"sparsity", "block_size", "cdf_threshold"},
     .videos = Videos::one,
     .takes_mask = true},""")]})

FORMAT = Sample("a number format", new={"src/formats/ternary.cpp": """
// A sample: bytes of -1, 0 and 1.
#include "formats/scaled.h"

namespace aerogel {
namespace {

void ternary_elements(const QuantizedTensor& weight, const Slice& slice, float* out) {
    const std::int8_t* data = weight.data.as<std::int8_t>() + slice.row * weight.columns + slice.first;
    for (std::int64_t i = 0; i < slice.count; ++i) out[i] = static_cast<float>(data[i]);
}

std::string ternary_problem(const QuantizedTensor& weight) {
    return scaled_problem(weight, DType::i8, {weight.rows, weight.columns});
}

}  // namespace

extern const FormatRow kTernaryFormat;
constexpr FormatRow kTernaryFormat = {Format::ternary, "ternary", DType::i8, ternary_elements, float_scale, ternary_problem};

}  // namespace aerogel
"""}, lines={"src/formats/table.cpp": [("namespace aerogel {", "extern const FormatRow kTernaryFormat;"),
                                       ("static const std::array rows = {", "        kTernaryFormat,")],
             "include/aerogel/quantized_tensor.h": [("enum class Format", " ternary,")]})

KERNEL = Sample("a CPU kernel", new={"src/kernels/cpu/avx2/sample.cpp": """
// A sample: the float kernel once more.
#include "kernels/cpu/linear_float.h"

#include "kernels/cpu/avx2/kernels.h"
#include "kernels/cpu/avx2/linear_tile.h"

namespace aerogel {
namespace {

using Row = FloatLinearRow<Avx2Floats>;

}  // namespace

constexpr LinearKernel avx2::kSample = {"cpu.avx2.sample", takes_float, Row::packed_bytes, Row::pack, Row::workspace_bytes, Row::run};

}  // namespace aerogel
"""}, lines={"src/kernels/cpu/avx2/kernels.h": [("namespace aerogel::avx2 {", "extern const LinearKernel kSample;")],
             "src/kernels/cpu/list.cpp": [("MachineRow<LinearKernel> kLinear[]", "    {kAvx2, &avx2::kSample},")]})

MACHINE = Sample("a kind of machine", new={"src/kernels/toy/list.h": """
// A sample of a machine.
#pragma once

#include "kernels/machine.h"

namespace aerogel::toy {

extern const Machine kMachine;

}  // namespace aerogel::toy
""", "src/kernels/toy/list.cpp": """
// Its lists: one kernel, that moves nothing, and one of a level that no toy has.
#include "kernels/toy/list.h"

namespace aerogel::toy {
namespace {

void copy(const HadamardArgs& args) noexcept {
    for (std::int64_t i = 0; i < args.columns; ++i) args.y[i] = args.x[i];
}

constexpr HadamardKernel kLater = {"toy.later.hadamard", copy}, kNow = {"toy.now.hadamard", copy};
constexpr MachineRow<HadamardKernel> kHadamard[] = {{2, &kLater}, {1, &kNow}};

std::string why_not(Device, int level) {
    return level == 1 ? "" : "needs a better toy";
}

}  // namespace

constexpr Machine kMachine = {.why_not = why_not, .hadamard = kHadamard};

}  // namespace aerogel::toy
"""}, lines={"src/ops/machines.cpp": [('#include "kernels/cpu/list.h"', '#include "kernels/toy/list.h"'),
                                      ("&cpu::kMachine}", "#ifdef AEROGEL_TOY\n    {DeviceKind::cuda, &toy::kMachine},\n#endif")],
             "src/core/device_memory.cpp": [("{DeviceKind::cpu, &kCpuMemory}", "#ifdef AEROGEL_TOY\n    {DeviceKind::cuda, &kCpuMemory},\n#endif")],
             "CMakeLists.txt": [("option(AEROGEL_BUILD_PYTHON", 'option(AEROGEL_TOY "Kernels for toys" OFF)')]})

SUBCOMMAND = Sample("a subcommand", new={"src/cli/sample.cpp": """
// aerogel sample: says so.
#include "cli/command.h"
#include "cli/output.h"

namespace aerogel::cli {

void add_sample(CLI::App& app) {
    app.add_subcommand("sample", "A sample")->callback([] { print_text("this is a sample"); });
}

}  // namespace aerogel::cli
"""}, lines={"src/cli/command.h": [("void add_quantize(", "void add_sample(CLI::App& app);")],
             "src/cli/main.cpp": [("add_quantize(app)", "    aerogel::cli::add_sample(app);")]})

SAMPLES = {s.recipe: s for s in (SCHEME, ALGORITHM, PATTERN, FORMAT, KERNEL, MACHINE, SUBCOMMAND)}
ELSEWHERE = {"a model family": "tests/model/family_test.cpp",  # test_families.py watches that nothing else knows a family
             "an array of a layer": "tests/quant/layer_arrays_test.cpp",  # walks the rows: a sample would change what all of the library includes
             "a VAE": "tests/model/test_vae.py", "a text encoder": "tests/model/text/test_text_encoders.py",  # a row's oracle is a class of another library
             "a CUDA kernel": "tests/kernels/test_sass.py",  # compiled by nvcc: it looks at the products of each
             "a public header": "tests/house/test_public_headers.py"}  # every one that is there

CHECK = """
// Uses what the samples added. Each line of output is a fact.
#include <cmath>
#include <cstdio>
#include <exception>

#include "aerogel/quantized_linear.h"
#include "formats/format.h"
#include "ops/dispatch.h"
#include "ops/linear.h"
#include "quant/algorithms/algorithm.h"

namespace {

using namespace aerogel;

Tensor filled(Shape shape) {
    Tensor tensor(DType::f32, std::move(shape));
    for (std::int64_t i = 0; i < tensor.count(); ++i) tensor.mutable_as<float>()[i] = std::sin(static_cast<float>(i * i % 101));
    return tensor;
}

double relative_error(const Tensor& x, const Tensor& weight, const Tensor& y) {
    double difference = 0, norm = 0;
    for (std::int64_t i = 0; i < y.count(); ++i) {
        double sum = 0;
        for (std::int64_t k = 0; k < x.dim(1); ++k)
            sum += static_cast<double>(x.as<float>()[i / y.dim(1) * x.dim(1) + k]) * static_cast<double>(weight.as<float>()[i % y.dim(1) * x.dim(1) + k]);
        const double off = sum - static_cast<double>(y.as<float>()[i]);
        difference += off * off;
        norm += sum * sum;
    }
    return std::sqrt(difference / norm);
}

void check() {
    const Tensor x = filled({3, 64}), weight = filled({8, 64});
    Tensor y = Tensor::zeros(DType::f32, {3, 8});
    QuantizedLinearWeights layer;
    layer.scheme = "W4A8_SAMPLE";
    layer.weight = algorithm_row("minmax", Format::mxfp4_dual).quantize(weight, {});
    const Tensor stored = dequantize(layer.weight);
    QuantizedLinear(std::move(layer)).forward(x, y, {});
    std::printf("scheme %d\\n", relative_error(x, stored, y) < 0.1);

    const QuantizedTensor halves = algorithm_row("halves", Format::int8).quantize(weight, {});
    int largest = 0;
    for (std::int64_t i = 0; i < halves.data.count(); ++i) largest = std::max(largest, std::abs(int{halves.data.as<std::int8_t>()[i]}));
    std::printf("algorithm %d\\n", largest);

    QuantizedTensor ternary;
    ternary.format = Format::ternary;
    ternary.rows = 8;
    ternary.columns = 64;
    ternary.data = Tensor(DType::i8, {8, 64});
    for (std::int64_t i = 0; i < ternary.data.count(); ++i) ternary.data.mutable_as<std::int8_t>()[i] = static_cast<std::int8_t>(i % 3 - 1);
    ternary.scale = Tensor(DType::f32, {8, 1});
    for (std::int64_t i = 0; i < 8; ++i) ternary.scale.mutable_as<float>()[i] = 0.5F;
    const PackedLinear packed(ternary, Activation::none);
    packed.run(x, y, Activation::none, {});
    std::printf("format %s %s %d\\n", to_string(ternary.format).data(), packed.kernel_name().data(), relative_error(x, dequantize(ternary), y) < 1e-6);

    const Tensor there = x.to(Device::cuda);
    std::printf("machine %s %s %d\\n", choose("hadamard", there.device(), &Machine::hadamard, FloatRows{}).name.data(), there.view().device.describe().data(),
                there.to(Device::cpu).as<float>()[5] == x.as<float>()[5]);
}

}  // namespace

int main() {
    try {
        check();
    } catch (const std::exception& error) {
        std::puts(error.what());
        return 1;
    }
}
"""


def patched(text, edits):
    """The text with every addition behind the one line that has the words before it; inside the braces of an enum on one line."""
    for words, added in edits:
        lines = text.split("\n")
        (at,) = [i for i, line in enumerate(lines) if words in line and not line.lstrip().startswith("//")][:1]
        if lines[at].endswith("};"):
            lines[at] = lines[at].replace(" };", "," + added.rstrip(",") + " };")
        else:
            lines.insert(at + 1, added.strip("\n"))
        text = "\n".join(lines)
    return text


def recipe_rows():
    """First cell -> the other cells of the table in CONTRIBUTING.md."""
    section = (ROOT / "CONTRIBUTING.md").read_text().split("\n## Recipes", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", section, re.M)
    return {first: rest for first, *rest in rows[2:]}


def test_every_recipe_has_a_sample():
    assert sorted(recipe_rows()) == sorted([*SAMPLES, *ELSEWHERE])
    assert all((ROOT / path).exists() for path in ELSEWHERE.values())


@pytest.mark.parametrize("recipe", SAMPLES)
def test_a_sample_touches_what_its_recipe_says(recipe):
    sample, (write, touch) = SAMPLES[recipe], recipe_rows()[recipe]
    for path in sample.lines:
        assert Path(path).name in touch, f"{path} is not in the recipe: {touch}"
    assert bool(sample.new) == (write != "nothing")
    for path in sample.new:
        folder = re.search(r"`(src/[\w/]+)`", write)[1].replace("LEVEL", "avx2").replace("NAME", "toy")
        assert Path(path).parent == Path(folder), f"{path} is not in the recipe: {write}"
    assert len(sample.new) <= (2 if recipe == "a kind of machine" else 1)


@dataclass
class Sampled:
    """The samples in a copy of the sources, built: a folder with the command and the program that tests of sparse attention call."""

    root: Path
    command: Path
    check: Path

    def run(self, *arguments, **environment):
        return subprocess.run([str(a) for a in arguments], capture_output=True, text=True, check=False, env={**os.environ, **environment})


def command_like(entries, part):
    """Compiler and flags of the first source with this in its path, without its own names."""
    words = shlex.split(next(e for e in entries if part in e["file"])["command"])
    return [w for w in words[: words.index("-o")] if w != "-g"]


def compile_sources(root, sources):
    entries = json.loads((BUILD / "compile_commands.json").read_text())
    quick = ["-O0", "-w", "-DAEROGEL_TOY"]
    own = {f"-I{ROOT}/{folder}": f"-I{root}/{folder}" for folder in ("src", "include")}

    def one(source):
        like = "kernels/cpu/avx2/" if "cpu/avx2" in source else "problem_files.cpp" if "cli/" in source else "kernels/cpu/baseline/"
        flags = [own.get(w, w) for w in command_like(entries, like)]
        result = root / (source.replace("/", "_") + ".o")
        level = ["-O2"] if "cpu/avx2" in source else []
        done = subprocess.run([*flags, *quick, *level, "-c", str(root / source), "-o", str(result)], cwd=BUILD, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{source}:\n{done.stderr}"
        return result

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return dict(zip(sources, pool.map(one, sources), strict=True))


def link(objects, result):
    libraries = re.search(r"^build aerogel: CXX_EXECUTABLE_LINKER.*?LINK_LIBRARIES = ([^\n]*)", (BUILD / "build.ninja").read_text(), re.M | re.S)[1]
    compiler = json.loads((BUILD / "compile_commands.json").read_text())[0]["command"].split()[0]
    done = subprocess.run([compiler, *map(str, objects), "-o", str(result), "-Wl,--allow-multiple-definition", *libraries.split()], cwd=BUILD,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return result


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    cache = (BUILD / "CMakeCache.txt").read_text()
    if re.search(r"^AEROGEL_SANITIZE:\w+=.", cache, re.M) or not (BUILD / "build.ninja").exists() or not (BUILD / "aerogel").exists():
        pytest.skip("needs the command, built by ninja without sanitizers")
    root = tmp_path_factory.mktemp("sampled")
    for name in ("src", "include", "cmake"):
        shutil.copytree(ROOT / name, root / name)
    shutil.copy(ROOT / "CMakeLists.txt", root)
    sources = {"check.cpp", "tests/sparse_dump.cpp"}
    (root / "tests").mkdir()
    shutil.copy(ROOT / "tests/programs/sparse_dump.cpp", root / "tests")
    (root / "check.cpp").write_text(CHECK.lstrip())
    for sample in SAMPLES.values():
        for path, text in sample.new.items():
            (root / path).parent.mkdir(exist_ok=True)
            (root / path).write_text(text.lstrip())
        for path, edits in sample.lines.items():
            (root / path).write_text(patched((root / path).read_text(), edits))
        sources.update(path for path in (*sample.new, *sample.lines) if path.endswith(".cpp"))
    objects = compile_sources(root, sorted(sources))
    command = [o for source, o in objects.items() if "cli/" in source]
    library = [o for source, o in objects.items() if source.startswith("src/") and "cli/" not in source]
    link([objects["tests/sparse_dump.cpp"], *library], root / "tests/sparse_dump")
    return Sampled(root, link([*command, *library], root / "aerogel"), link([objects["check.cpp"], *library], root / "check"))


def test_the_samples_work(sampled):
    done = sampled.run(sampled.check)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == ["scheme 1", "algorithm 64", "format ternary reference.linear 1", "machine toy.now.hadamard cuda:0 1"]


def test_the_command_shows_the_samples(sampled):
    schemes = json.loads(sampled.run(sampled.command, "quantize", "--list", "--json").stdout)["schemes"]
    (row,) = [s for s in schemes if s["scheme"] == "W4A8_SAMPLE"]
    assert row["weight"] == "mxfp4_dual" and row["kernels"][-1] == "reference.linear"
    assert "halves" in next(s for s in schemes if s["scheme"] == "W8A8_DYNAMIC")["algorithms"]
    kernels = sampled.run(sampled.command, "inspect", "--kernels").stdout
    assert "cpu.avx2.sample" in kernels and "toy.now.hadamard" in kernels and "toy.later.hadamard" in kernels
    assert sampled.run(sampled.command, "sample").stdout == "this is a sample\n"
    assert "sample" in sampled.run(sampled.command, "--help").stdout


def test_a_new_pattern_runs(sampled, tmp_path):
    video = reference.Video((33, 4, 4), 5, 16, 0.5)
    call = random_call(1, video, "own_blocks")
    result = run(sampled.root, tmp_path, call)
    assert result.types == ["own_blocks"] * 2
    kept = np.arange(video.blocks)
    always = (kept * video.block < video.sink) | ((kept + 1) * video.block > video.video)
    mask = np.eye(video.blocks, dtype=bool) | always[:, None] | always[None, :]
    order = reference.raster(video)
    check_output(call, result, lambda b, h: (mask, order, order))


def test_flags_and_messages_know_a_new_pattern(sampled):
    text = sampled.run(sampled.command, "generate", "--help").stdout
    assert re.search(r"own_blocks, none, rf_v1, rf_v2, rf_v3 or\s+ada_bsa", text)
    assert re.search(r"own_blocks, ada_bsa: share of each row's attention", text)


def test_the_benchmark_finds_a_new_kernel(sampled):
    """Forced, it runs, unless this CPU lacks its level; then the refusal says so."""
    done = sampled.run(sampled.command, "bench", "--only", "FLOAT/4096x256x256", "--repeat", "1", "--json", AEROGEL_KERNEL="cpu.avx2.sample", AEROGEL_LOG="dispatch")
    if done.returncode != 0:
        assert "cpu.avx2.sample: needs CPU level avx2" in done.stderr
    else:
        assert "-> cpu.avx2.sample (forced" in done.stderr and json.loads(done.stdout)["results"][0]["error"] < 1e-6


def test_a_machine_is_left_out_without_its_option(sampled, tmp_path):
    """cmake/machines.cmake on the patched tree: its folder goes with the option, and comes with a definition."""
    script = tmp_path / "choose.cmake"
    script.write_text(f"""set(PROJECT_SOURCE_DIR {sampled.root})
include({sampled.root}/cmake/machines.cmake)
file(GLOB_RECURSE sources {sampled.root}/src/kernels/*.cpp)
aerogel_choose_machines(sources definitions)
list(FILTER sources INCLUDE REGEX "/kernels/(toy|cpu/list|reference/linear)")
message("${{sources}} ${{definitions}}")
""")
    off, on = (sampled.run("cmake", f"-DAEROGEL_TOY={value}", "-P", script).stderr for value in ("OFF", "ON"))
    assert "/toy/list.cpp" not in off and "AEROGEL_TOY" not in off and "/cpu/list.cpp" in off and "/reference/linear.cpp" in off
    assert "/toy/list.cpp" in on and "AEROGEL_TOY" in on and "/cpu/list.cpp" in on
