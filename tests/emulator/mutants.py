"""Deliberate mistakes in CUDA kernels: which text becomes which, and the suites of aerogel_emulator_tests that must notice.
Another kernel's mistakes are more rows here."""

from dataclasses import dataclass

SAMPLE, HOPPER = "tests/emulator/kernels/sample_w8a8.cu", "tests/emulator/kernels/sample_sm90.cu"


@dataclass(frozen=True)
class Mutant:
    name: str
    source: str  # the file that changes
    old: str  # occurs there once
    new: str
    unit: str  # the .cu that is compiled
    suites: str  # --gtest_filter


def of_sample(name, old, new):
    return Mutant(f"sample: {name}", SAMPLE, old, new, SAMPLE, "EmulatorSample.*")


def of_hopper(name, old, new):
    return Mutant(f"hopper: {name}", HOPPER, old, new, HOPPER, "EmulatorHopper.*")


MUTANTS = [
    of_sample("no barrier", "        __syncthreads();\n", ""),
    of_sample("waits for a stage too few", "cp_async_wait<kSampleStages - 2>", "cp_async_wait<kSampleStages - 1>"),
    of_sample("never waits", "gpu::cp_async_wait<kSampleStages - 2>();", ""),
    of_sample("no commit in the loop", "        gpu::cp_async_commit();\n        multiply_stage", "        multiply_stage"),
    of_sample("loads into the stage that is read", "load_stage(stages, a, t + kSampleStages - 1);",
              "load_stage(stages + 2 * kSampleTile * (t % 2), a, t + kSampleStages - 1);"),
    of_sample("no swizzle", "((chunk ^ ((row >> 1) & 3)) << 4)", "(chunk << 4)"),
    of_sample("swizzled by another row", "((row >> 1) & 3)", "(row & 3)"),
    of_sample("last stage of k forgotten", "const int steps = (a.k + kDepth - 1) / kDepth;", "const int steps = a.k / kDepth;"),
    of_sample("no zero fill beyond k", "row < t.rows && k < t.k", "row < t.rows"),
    of_sample("no zero fill beyond the rows", "row < t.rows && k < t.k", "k < t.k"),
    of_sample("writes a row too many", "if (r >= a.m || c >= a.n) continue;", "if (r > a.m || c >= a.n) continue;"),
    of_sample("fragments of w exchanged", "fw[j / 2] + j % 2 * 2", "fw[j / 2] + (1 - j % 2) * 2"),
    of_sample("rows of A exchanged", "e / 2 * 8, c =", "(1 - e / 2) * 8, c ="),
    of_sample("scale of another column", "a.ws[c]", "a.ws[c ^ 1]"),
    of_sample("contracted", "__fadd_rn(y, a.bias[c])",
              "__fmaf_rn(__fmul_rn(static_cast<float>(sums[i][j][e]), a.xs[r]), a.ws[c], a.bias[c])"),
    of_sample("largest magnitude of 16 lanes", "int d = 16; d > 0", "int d = 8; d > 0"),
    of_hopper("wrong parity of full", "static_cast<std::uint32_t>(t / kHopperStages & 1)", "static_cast<std::uint32_t>((t / kHopperStages & 1) ^ 1)"),
    of_hopper("wrong parity of empty", "(t / kHopperStages & 1) ^ 1)", "(t / kHopperStages & 1))"),
    of_hopper("expects one tile", "mbarrier_expect(stages.full + s, 2 * kHopperTile)", "mbarrier_expect(stages.full + s, kHopperTile)"),
    of_hopper("gives a stage back too early", "wgmma_wait<1>(sums);  // ", "wgmma_hold(sums);  // "),
    of_hopper("gives back the stage it reads", "stages.empty + (t - 1) % kHopperStages", "stages.empty + s"),
    of_hopper("one consumer frees the stage", "mbarrier_init(stages.empty + s, 2)", "mbarrier_init(stages.empty + s, 1)"),
    of_hopper("never gives a stage back", "if (t > 0 && threadIdx.x % 128 == 0)", "if (t < 0)"),
    of_hopper("does not wait for the tiles", "gpu::mbarrier_wait(stages.full + s, static_cast<std::uint32_t>(t / kHopperStages & 1));", ""),
    of_hopper("initialisation not fenced", "        gpu::mbarrier_fence_init();\n    }\n    __syncthreads();\n    if (role", "    }\n    __syncthreads();\n    if (role"),
    of_hopper("no barrier after the initialisation", "    __syncthreads();\n    if (role", "    if (role"),
    of_hopper("no fence of the registers", "        gpu::wgmma_fence();\n#pragma unroll\n        for (int kk = 0; kk < 4; ++kk) {\n            gpu::wgmma_s8",
              "#pragma unroll\n        for (int kk = 0; kk < 4; ++kk) {\n            gpu::wgmma_s8"),
    of_hopper("sums read before they are there", "    gpu::wgmma_wait<0>(sums);\n}\n\nextern", "}\n\nextern"),
    of_hopper("columns of v in the wrong place", "kk * 2048, 64 * 128)", "kk * 2048, 32 * 128)"),
    of_hopper("the same k of v again", "v + kk * 2048", "v"),
]
