"""Deliberate mistakes in CUDA kernels: which text becomes which, and the suites that must notice.
Another kernel's mistakes are more rows here."""

from dataclasses import dataclass, replace

SAMPLE, HOPPER = "tests/emulator/kernels/sample_w8a8.cu", "tests/emulator/kernels/sample_sm90.cu"


@dataclass(frozen=True)
class Mutant:
    name: str
    source: str  # the file that changes
    old: str  # occurs there once
    new: str
    unit: str  # the .cu that is compiled
    suites: str  # --gtest_filter
    program: str = "aerogel_emulator_tests"  # or aerogel_cuda_tests, which gets a driver with the changed kernel
    sm: int = 80  # of aerogel_cuda_tests; above 80 only the rows that not every card has
    kernels: str = "*"  # of the unit's entries, those that get the mistake: patterns of their names


def of_sample(name, old, new):
    return Mutant(f"sample: {name}", SAMPLE, old, new, SAMPLE, "EmulatorSample.*")


def of_hopper(name, old, new):
    return Mutant(f"hopper: {name}", HOPPER, old, new, HOPPER, "EmulatorHopper.*")


GEMM = "src/kernels/cuda/gemm.cuh"


def of_gemm(name, old, new, kernels="*w8a8_m", unit="linear_int8"):
    return Mutant(f"gemm: {name}", GEMM, old, new, f"src/kernels/cuda/{unit}.cu", f"Linear/Gemm.{kernels}", kernels=kernels)


def of_weights(name, old, new, kernels, unit="linear_bf16"):
    return Mutant(f"weights: {name}", "src/kernels/cuda/gemm_weights.cuh", old, new, f"src/kernels/cuda/{unit}.cu", f"Linear/Gemm.{kernels}", kernels=kernels)


def of_gemm_sm90(name, old, new, kind="w8a8", unit="linear_int8_sm90"):
    return Mutant(f"gemm of sm_90: {name}", "src/kernels/cuda/gemm_sm90.cuh", old, new, f"src/kernels/cuda/{unit}.cu",
                  f"Linear/Gemm.*{kind}_sm90", kernels=f"{kind}_sm90")


def of_codes_sm90(name, old, new, kind="w4a8", unit="linear_int4_sm90"):
    return Mutant(f"codes of sm_90: {name}", "src/kernels/cuda/gemm_codes_sm90.cuh", old, new, f"src/kernels/cuda/{unit}.cu", f"Linear/Gemm.*{kind}_sm90",
                  kernels=f"{kind}_sm90")


def of_attention(name, old, new, suites="AlignedRowsWithinBounds", kernels="*_bf16_64"):
    return Mutant(f"attention: {name}", "src/kernels/cuda/attention.cuh", old, new, "src/kernels/cuda/attention.cu", f"CudaAttention.{suites}",
                  "aerogel_cuda_tests", kernels=kernels)


def of_key_mask(name, old, new, source="attention"):
    return Mutant(f"mask of keys: {name}", f"src/kernels/cuda/{source}.cuh", old, new, "src/kernels/cuda/attention.cu", "CudaAttention.MasksOfKeysHideThem",
                  "aerogel_cuda_tests", kernels="*key_words" if source == "attention" else "*_64")


def of_int8_attention(name, old, new, suites="Int8ProblemsWithinBounds", kernels="*_64"):
    return Mutant(f"int8 attention: {name}", "src/kernels/cuda/int8_attention.cuh", old, new, "src/kernels/cuda/int8_attention.cu",
                  f"CudaAttention.{suites}", "aerogel_cuda_tests", kernels=kernels)


def of_int8_qk(name, old, new, source="int8_qk_attention", kernels="*_bf16_64"):
    return Mutant(f"int8 scores: {name}", f"src/kernels/cuda/{source}.cuh", old, new, "src/kernels/cuda/int8_qk_attention.cu",
                  "CudaAttention.Int8QkWithinBounds", "aerogel_cuda_tests", kernels=kernels)


def of_ring(name, old, new):
    """In what all attention kernels of sm_80 share: each must notice."""
    suites = {"attention": "AlignedRowsWithinBounds", "int8_attention": "Int8ProblemsWithinBounds", "int8_qk_attention": "Int8QkWithinBounds"}
    return [Mutant(f"ring of {unit}: {name}", "src/kernels/cuda/attention_tiles.cuh", old, new, f"src/kernels/cuda/{unit}.cu", f"CudaAttention.{suite}",
                   "aerogel_cuda_tests", kernels="*bf16_64 *int8_attention_64") for unit, suite in suites.items()]


def of_attention_sm90(name, old, new, suites="AlignedRowsWithinBounds", unit="attention_sm90"):
    return Mutant(f"attention of sm_90: {name}", "src/kernels/cuda/attention_sm90.cuh", old, new, f"src/kernels/cuda/{unit}.cu",
                  f"CudaAttention.{suites}", "aerogel_cuda_tests", 90, "*_bf16_64_?")


def of_mx(name, old, new, kernels="*_s", source="mx_gemm"):
    return Mutant(f"mx: {name}", f"src/kernels/cuda/{source}.cuh", old, new, "src/kernels/cuda/linear_mx_sm120.cu", f"Linear/MxGemm.*/{kernels}",
                  kernels="*mx_quantize" if source == "mx_quantize" else kernels)


def of_mxfp4(name, old, new):
    return Mutant(f"mxfp4: {name}", "src/kernels/cuda/mx_gemm.cuh", old, new, "src/kernels/cuda/linear_mxfp4_sm120.cu", "Linear/MxGemm.*/fp4_s", kernels="fp4_s")


def of_rotation(name, old, new, source="quantize"):
    return Mutant(f"rotation: {name}", f"src/kernels/cuda/{source}.cuh", old, new, "src/kernels/cuda/quantize.cu", "QuantizedRotation.*", kernels="rotated_integers")


def of_convolution(name, old, new, cases="*narrow*", kernels="narrow"):
    return Mutant(f"convolution: {name}", "src/kernels/cuda/convolution.cuh", old, new, "src/kernels/cuda/convolution.cu",
                  f"Convolution/Tiles.{cases}", kernels=kernels)


def of_planning(name, old, new, suites, kernels):
    source = "planning_strided.cuh" if kernels in ("strided_products_*", "*parts", "keep_shares") else "planning.cuh"
    return Mutant(f"planning: {name}", f"src/kernels/cuda/{source}", old, new, "src/kernels/cuda/planning.cu", f"CudaPlanning.{suites}", "aerogel_cuda_tests",
                  kernels=kernels)


def of_far_rows(name, old, new):
    """In what attention of sm_80 and of sm_90 shares: both must notice."""
    both = {"attention": ("AttentionProducts.*", "*_bf16_64"), "attention_sm90": ("HopperAttentionProducts.*", "*_bf16_64_1 tile_rows")}
    return [Mutant(f"{unit}: {name}", "src/kernels/cuda/attention_tiles.cuh", old, new, f"src/kernels/cuda/{unit}.cu", suites, kernels=kernels)
            for unit, (suites, kernels) in both.items()]


def of_far_blocks(name, old, new):
    return Mutant(f"attention_sm90: {name}", "src/kernels/cuda/attention_sm90.cuh", old, new, "src/kernels/cuda/attention_sm90.cu",
                  "HopperAttentionProducts.*", kernels="*_bf16_64_1")


def of_far_elements(kernels, suites, old, offset):
    return Mutant(f"elementwise: {suites} of {kernels} in 32 bits", "src/kernels/cuda/elementwise.cuh", old, old.replace(offset, f"static_cast<std::int32_t>({offset})"),
                  "src/kernels/cuda/elementwise.cu", f"Elementwise.{suites}_beyond_32_bits", kernels=kernels)


def of_primitive(check, old, new, sm=80):
    """What a card would do that does not as it should: here the check asks for something else."""
    unit = f"tests/kernels/cuda/primitive_checks/primitives_sm{sm}.cu"
    return Mutant(f"primitive of sm_{sm}: {check}, {new}", unit, old, new, unit, f"Cuda/Primitives.*/{check}", "aerogel_cuda_tests", sm, check)


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
    of_gemm("no barrier in the loop", "                    __syncthreads();\n                    next(", "                    next("),
    of_gemm("no barrier before the loop", "        __syncthreads();\n        Fragments", "        Fragments"),
    of_gemm("waits for a stage too few", "gpu::cp_async_wait<T.stages - 2>();\n                    __syncthreads", "gpu::cp_async_wait<T.stages - 1>();\n                    __syncthreads"),
    of_gemm("fetches into the stage that is read", "shared + t % T.stages * kStageBytes + threadIdx.x * 16", "shared + (t + 1) % T.stages * kStageBytes + threadIdx.x * 16"),
    of_gemm("a quarter of the copies missing", "if (i * quarters / kCopies != quarter) continue;", "if (i * quarters / kCopies != quarter || i == 1) continue;"),
    of_gemm("x read without the swizzle", "((s * 2 + lane / 16) ^ (lane % 8)) * 16", "(s * 2 + lane / 16) * 16"),
    of_gemm("w read without the swizzle", "((s * 2 + lane / 8 % 2) ^ (lane % 8)) * 16", "(s * 2 + lane / 8 % 2) * 16"),
    of_gemm("reads the stage before", "shared + (t + 1) % T.stages * kStageBytes", "shared + t % T.stages * kStageBytes"),
    of_gemm("the same fragments twice", "multiply(fragments[i % 2], i);\n                } else", "multiply(fragments[(i + 1) % 2], i);\n                } else"),
    of_gemm("next slab of x forgotten", "next_x += a.x_rows * kSlabBytes;", ""),
    of_gemm("a row too many is written", "if (r >= a.m || count <= 0)", "if (r > a.m || count <= 0)"),
    of_gemm("eight columns are written where fewer are left", "left < 8 ? static_cast<int>(left) : 8;", "8;"),
    of_gemm("scale of the next column", "columns()[n - first_column + e];", "columns()[n - first_column + (e + 1) % 8];"),
    of_gemm("columns of another row of tiles", "static_cast<std::int64_t>(within / rows) * T.columns", "static_cast<std::int64_t>(within / kTogether) * T.columns"),
    of_gemm("no barrier before the parts are read", "        __syncthreads();\n        if (part > 0) return;", "        if (part > 0) return;", "*w8a8_t"),
    of_gemm("a group too late", "if (++step < a.group_steps) return;", "if (++step <= a.group_steps) return;", "*w8a8_groups*"),
    of_gemm("stale scale of the group", "        ++group;\n        read_group();", "        ++group;", "*w8a8_groups*"),
    of_weights("nibbles exchanged", "b[0] = word << 4 & 0xF0F0F0F0U;\n        b[1] = word & 0xF0F0F0F0U;", "b[1] = word << 4 & 0xF0F0F0F0U;\n        b[0] = word & 0xF0F0F0F0U;", "*w4a8_?", "linear_int4"),
    of_weights("int8 without its sign", "two & 0xFF80FF80U", "two & 0xFF00FF00U", "*bf16_int8*"),
    of_weights("int4 one too small", "0x43084308U", "0x43094309U", "*bf16_int4*"),
    of_weights("E5M2 with the bias of E4M3", "e5m2 ? 0x77807780U : 0x7B807B80U", "0x7B807B80U", "*bf16_fp8*"),
    of_weights("E2M1 without its sign", "(word & 0x00070007U) << 6 | (word & 0x00080008U) << 12", "(word & 0x00070007U) << 6", "*bf16_fp4*"),
    of_gemm_sm90("wrong parity of full", "static_cast<std::uint32_t>(slabs_done / T.stages & 1));", "static_cast<std::uint32_t>(slabs_done / T.stages & 1) ^ 1U);"),
    of_gemm_sm90("wrong parity of empty", "static_cast<std::uint32_t>(slabs_done / T.stages & 1) ^ 1U", "static_cast<std::uint32_t>(slabs_done / T.stages & 1)"),
    of_gemm_sm90("gives a stage back too early", "gpu::wgmma_wait<1>(sums);", "gpu::wgmma_hold(sums);"),
    of_gemm_sm90("one consumer frees a stage", "this->begin(2);", "this->begin(1);"),
    of_gemm_sm90("the last stage is never given back", "        gpu::wgmma_wait<0>(sums);\n        give_back(slabs_done - 1, thread);", "        gpu::wgmma_wait<0>(sums);"),
    of_gemm_sm90("sums of the tile before", "begin_slab(sums, group, t > 0);", "begin_slab(sums, group, true);"),
    of_gemm_sm90("the columns are not waited for", "gpu::barrier_sync(1, kConsumers);", ""),
    of_gemm_sm90("one buffer of columns", "turn ^= 1", "turn"),
    of_gemm_sm90("the same k again", "gpu::descriptor(x + step * 32)", "gpu::descriptor(x)"),
    of_gemm_sm90("rows of the other group", "shared + s * T.stage_bytes + group * 64 * kSlabBytes", "shared + s * T.stage_bytes + (1 - group) * 64 * kSlabBytes"),
    of_gemm_sm90("fp8 with the sums of the slab before", "begin_slab(sums, group, false);", "begin_slab(sums, group, t > 0);", "fp8", "linear_fp8_sm90"),
    of_gemm_sm90("fp8 gives a stage back too early", "            gpu::wgmma_wait<0>(sums);\n            give_back(slabs_done, thread);", "            give_back(slabs_done, thread);\n            gpu::wgmma_wait<0>(sums);", "fp8", "linear_fp8_sm90"),
    of_gemm_sm90("no fence of the registers", "        gpu::wgmma_fence();\n", ""),
    of_codes_sm90("half of the warps free a stage", "this->begin(8);", "this->begin(4);"),
    of_codes_sm90("wrong parity of full", "static_cast<std::uint32_t>(slabs_seen / T.stages & 1)", "(static_cast<std::uint32_t>(slabs_seen / T.stages & 1) ^ 1U)"),
    of_codes_sm90("gives a stage back too early", "gpu::wgmma_wait<0>(sums[0]);", "gpu::wgmma_hold(sums[0]);"),
    of_codes_sm90("never gives a stage back", "            give_back(slabs_done);\n", ""),
    of_codes_sm90("lanes that still read", "        __syncwarp();\n", ""),
    of_codes_sm90("the same k again", "multiply(sums[1], fragments[step][1], stage + step * 32,", "multiply(sums[1], fragments[step][1], stage,"),
    of_codes_sm90("k of w exchanged", "fragment[half] = b[0];\n                fragment[half + 2] = b[1];", "fragment[half] = b[1];\n                fragment[half + 2] = b[0];"),
    of_codes_sm90("the same tile twice", "load(fragments[step][1], stage, step, 1);", "load(fragments[step][1], stage, step, 0);"),
    of_codes_sm90("no fence of the registers", "gpu::wgmma_fence();\n                multiply(", "multiply("),
    of_codes_sm90("sums of the tile before", "multiply(sums[0], fragments[step][0], stage + step * 32, t > 0 || step > 0);", "multiply(sums[0], fragments[step][0], stage + step * 32, true);"),
    of_codes_sm90("halves of eight columns not exchanged", "eight[2 * i] = odd != 0 ? other : own;", "eight[2 * i] = own;"),
    of_codes_sm90("a row too many is written", "if (row >= a.m || left <= 0)", "if (row > a.m || left <= 0)"),
    of_codes_sm90("eight columns are written where fewer are left", "left < 8 ? static_cast<int>(left) : 8,", "8,"),
    of_codes_sm90("scale of the other column", "scale[tile * 2 + i / 2 % 2]", "scale[tile * 2 + i % 2]", "w4a8_groups"),
    of_codes_sm90("scales of neighbours", "from[2 * i];", "from[i];", "w4a8_groups"),
    of_codes_sm90("stale scales", "read_scales(place, group);", "read_scales(place, 0);", "w4a8_groups"),
    of_codes_sm90("sums of the group before", "                     i > 0);", "                     true);", "w4a8_groups"),
    of_codes_sm90("gives back a slab that is not done", "given < step / 4", "given < (step + 3) / 4", "w4a8_groups"),
    of_codes_sm90("the last slab is never given back", "            for (; given < a.slabs; ++given) give_back(slabs_done + given);\n", "", "w4a8_groups"),
    of_codes_sm90("w read without the swizzle", "((step * 2 + lane / 16) ^ (lane % 8)) * 16", "(step * 2 + lane / 16) * 16", "w8a8_groups", "linear_int8_sm90"),
    of_codes_sm90("contracted", "__fadd_rn(all[i], __fmul_rn(sum, by))", "__fmaf_rn(sum, by, all[i])", "w4a8_groups"),
    of_codes_sm90("no fence before a group", "        gpu::wgmma_fence();\n#pragma", "#pragma", "w4a8_groups"),
    of_codes_sm90("a group is not waited for", "        gpu::wgmma_wait<0>(sums);\n    }", "    }", "w4a8_groups"),
    of_codes_sm90("steps of the next group", "step += count;", "step += kChunk;", "bf16_int8", "linear_codes_sm90"),
    of_codes_sm90("offsets of the group before", "read_offsets(place, group + 1);", "read_offsets(place, group);", "bf16_int4", "linear_codes_sm90"),
    of_codes_sm90("offsets exchanged", "half == 0 ? 0x1010 : 0x3232", "half == 0 ? 0x3232 : 0x1010", "bf16_int8", "linear_codes_sm90"),
    of_codes_sm90("nibbles of the step before", "Kind::unpack(words[half], step, both, a, b);", "Kind::unpack(words[half], step / 2, both, a, b);", "bf16_fp4", "linear_codes_sm90"),
    *of_ring("no barrier before the keys", "may be on their way\n        __syncthreads();", "may be on their way"),
    *of_ring("no barrier before the values", "the values are here\n        __syncthreads();", "the values are here"),
    *of_ring("the values are not waited for", "gpu::cp_async_wait<1>();  // the values are here", "gpu::cp_async_wait<2>();  // the values are here"),
    *of_ring("keys to the place that is read", "fetch_keys(Ring::keys_at(next)", "fetch_keys(Ring::keys_at(now)"),
    *of_ring("values to the place that is read", "fetch_values(Ring::values_at(next)", "fetch_values(Ring::values_at(now)"),
    of_attention("no swizzle", "((chunk ^ (row & 7)) << 4)", "(chunk << 4)"),
    of_attention("masks are not looked at", "(kept >> (j * 8 + c) & 1) != 0 && j * 8 + c < seen", "j * 8 + c < seen"),
    of_attention("a key too few under a causal mask", "query + shift + 1 - behind", "query + shift - behind"),
    of_attention("o does not follow the largest score", "rows.o[t][d][e * 2 + c] *= fall;", "rows.o[t][d][e * 2 + c] *= 1.0F;"),
    of_attention("the sum does not follow it", "__fmaf_rn(rows.sum[t][e], fall, sum)", "rows.sum[t][e] + sum"),
    of_attention("a lane overwrites what others read", "            __syncwarp();  // all four have read it\n", ""),
    of_attention("rows beyond the keys are read", "const bool kept = keep(row) && chunk * 8 < from.channels;", "const bool kept = chunk * 8 < from.channels;"),
    of_attention("log-sum-exp in powers of two", "rows.top(t, e) * kLn2 + logf(sum)", "rows.top(t, e) + logf(sum)", "LogSums*"),
    *of_far_rows("tokens beyond 32 bits", "token * rows.token;", "static_cast<std::int32_t>(token * rows.token);"),
    *of_far_rows("heads beyond 32 bits", "/ rows.shared * rows.head +", "/ rows.shared * static_cast<std::int32_t>(rows.head) +"),
    *of_far_rows("rows in 32 bits", "static_cast<std::int64_t>(order == nullptr ? token : order[token]) * token_bytes", "static_cast<std::int32_t>(token * token_bytes)"),
    of_far_blocks("blocks of keys in 32 bits", "static_cast<std::int64_t>(portion.first[b] / kTileTokens) * kKeyBlock", "portion.first[b] / kTileTokens * kKeyBlock"),
    of_far_blocks("blocks of values in 32 bits", "static_cast<std::int64_t>(block) * kValueBlock", "block * kValueBlock"),
    of_far_elements("activation", "elements", "return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x", "static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x"),
    of_far_elements("norm", "norms", "const float* x = a.x + row * a.x_stride;", "row * a.x_stride"),
    of_far_elements("softmax", "softmax", "float* x = a.x + row * a.x_stride;\n    float largest", "row * a.x_stride"),
    of_far_elements("gated", "products_and_sums", "open * a.x[row * a.x_stride + column]", "row * a.x_stride"),
    of_far_elements("residual", "products_and_sums", "float& x = a.x[row * a.x_stride + column]", "row * a.x_stride"),
    of_far_elements("rope", "turns", "row * a.x_stride + head * a.head_dim", "row * a.x_stride"),
    of_far_elements("f32", "copies", "x += at * a.x_strides[0];", "at * a.x_strides[0]"),
    of_key_mask("keys behind the last one", "key < a.tokens && a.mask", "a.mask"),
    of_key_mask("the mask of another item", "i / a.padded * a.tokens + key", "key"),
    of_key_mask("hidden keys are seen", "+ key] != 0)", "+ key] == 0)"),
    of_key_mask("a word for two", "a.to[i / 32] = seen;", "a.to[i / 64] = seen;"),
    of_key_mask("of the first word alone", "seen[tile.first / 64]", "seen[0]", "attention_tiles"),
    of_key_mask("the first half of a word twice", ">> (tile.first % 64)", ">> 0", "attention_tiles"),
    of_key_mask("each head an item", "/ tiles.heads * tiles.seen_words", "* tiles.seen_words", "attention_tiles"),
    of_key_mask("not at all", "if (seen != nullptr) tile.kept &=", "if (seen == nullptr) tile.kept &=", "attention_tiles"),
    of_int8_attention("scales of v exchanged", "(i % 2 == 0 ? scale.x : scale.y)", "(i % 2 == 0 ? scale.y : scale.x)"),
    of_int8_attention("stale factor of the other row", "weights.factor[t][i / 2], rows.o", "weights.factor[t][0], rows.o"),
    of_int8_attention("bytes of the weights exchanged", "0x0040), __byte_perm(bits[2], bits[3], 0x0040), 0x5410)", "0x0040), __byte_perm(bits[2], bits[3], 0x0040), 0x1054)"),
    of_int8_attention("the mean of v forgotten", "if (shift != nullptr) x = __fadd_rn(x, shift[channel]);", ""),
    of_int8_attention("masks are not looked at", "const bool is_kept = (kept >> (j * 8 + c) & 1) != 0;", "const bool is_kept = true;"),
    of_int8_qk("the first part of a block for all", "within * kWidth + i * 16", "i * 16", kernels="*_bf16_*"),
    of_int8_qk("scales of the first part of a block", "kInt8Group * kWidth + within * 4", "kInt8Group * kWidth", kernels="*_bf16_*"),
    of_int8_qk("scales of k exchanged", "(i % 2 == 0 ? scale.x : scale.y)", "(i % 2 == 0 ? scale.y : scale.x)"),
    of_int8_qk("scales of the rows above", "const int query = tile.first + row + i * 8;", "const int query = tile.first + row + i / 2 * 16;"),
    of_int8_qk("masks are not looked at", "edit_scores<Shape>(s, a, plan.tile, keys);", "(void)a;", "attention"),
    of_int8_qk("keys of the first map", "kv_map * ((tiles.k_len + kInt8Group - 1) / kInt8Group) *", "0 *"),
    of_attention_sm90("queries not fenced", "        gpu::fence_async();\n        gpu::barrier_sync", "        gpu::barrier_sync"),
    of_attention_sm90("queries of the other warps not waited for", "        gpu::barrier_sync(1 + group, 128);\n", ""),
    of_attention_sm90("no swizzle of q", "queries() + chunk / 8 * kTilePart + r * kTileRow + (((chunk % 8) ^ (r & 7)) << 4)", "queries() + chunk / 8 * kTilePart + r * kTileRow + (chunk % 8 << 4)"),
    replace(of_attention_sm90("no swizzle of k and v", "row * kTileRow + (((chunk % 8) ^ (row & 7)) << 4)", "row * kTileRow + (chunk % 8 << 4)"), kernels="*tile_rows"),
    of_attention_sm90("keys not waited for", "        gpu::mbarrier_wait(Stages::keys_here(i), Stages::parity(i));\n", ""),
    of_attention_sm90("values not waited for", "        gpu::mbarrier_wait(Stages::values_here(i), Stages::parity(i));\n", ""),
    of_attention_sm90("keys overwritten", "Stages::parity(i) ^ 1U);\n            if (threadIdx.x == 0) {", "Stages::parity(i));\n            if (threadIdx.x == 0) {"),
    of_attention_sm90("values given back too early", "                begin_values(i - 1);\n", "                begin_values(i - 1);\n                give_back(Stages::values_read(i - 1));\n"),
    of_attention_sm90("scores not waited for", "gpu::wgmma_wait<1>(s);", "gpu::wgmma_wait<2>(s);"),
    of_attention_sm90("o not waited for", "                gpu::wgmma_wait<0>(o);\n                gpu::wgmma_hold", "                gpu::wgmma_hold"),
    of_attention_sm90("products without a fence", "        gpu::wgmma_fence();\n#pragma unroll\n        for (int step = 0; step < S.keys() / 16", "#pragma unroll\n        for (int step = 0; step < S.keys() / 16"),
    of_attention_sm90("values of the portion after", "                begin_values(i - 1);\n", "                begin_values(i);\n"),
    of_attention_sm90("o does not follow the largest score", "o[c] *= fall[c / 2 % 2];", "o[c] *= fall[0];"),
    of_attention_sm90("values of the second block", "(part * S.blocks + b) * kTilePart + row * kTileRow + c % 8 * 16", "(part * S.blocks) * kTilePart + row * kTileRow + c % 8 * 16"),
    of_attention_sm90("zeros not fenced", "        if (rows != S.keys()) gpu::fence_async();\n", ""),
    of_attention_sm90("rows behind the keys not cleared", "if ((portion.kept[b] >> row & 1) == 0)", "if ((portion.kept[b] >> row & 1) == 0 && row < 8)"),
    replace(of_attention_sm90("a run of rows from the first one", "kValueBlock + row * kTileRow;", "kValueBlock;"), kernels="*_bf16_*"),
    of_attention_sm90("the block that is not there", "if (portion.kept[1] == 0) portion.first[1] = portion.first[0];", "if (portion.kept[1] == 0) portion.first[1] = portion.first[0] + 4096;"),
    of_attention_sm90("masks are not looked at", "const bool is_kept = (kept >> (j * 8 + c) & 1) != 0 && j * 8 + c < seen;", "const bool is_kept = j * 8 + c < seen;"),
    of_attention_sm90("a key too few under a causal mask", "tiles.q_len) + 1 - first", "tiles.q_len) - first"),
    of_attention_sm90("log-sum-exp in powers of two", "top[e] * kLn2 + logf(all)", "top[e] + logf(all)", "LogSums*"),
    of_attention_sm90("scales of the portion before", "const float* const scales = Stages::scales(i) + column;", "const float* const scales = Stages::scales(i + 1) + column;", "Int8QkWithinBounds", "int8_qk_sm90"),
    of_attention_sm90("scales of k exchanged", "(c % 2 == 0 ? scale.x : scale.y)", "(c % 2 == 0 ? scale.y : scale.x)", "Int8QkWithinBounds", "int8_qk_sm90"),
    of_attention_sm90("scales of the rows above", "a.q_scale[tile.map * a.rest.tiles.q_len + row + e * 8]", "a.q_scale[tile.map * a.rest.tiles.q_len + row]", "Int8QkWithinBounds", "int8_qk_sm90"),
    of_mx("no barrier in the loop", "__syncthreads();  // all have read the stage that is filled now", ""),
    of_mx("waits for a stage too few", "gpu::cp_async_wait<T.stages - 2>();", "gpu::cp_async_wait<T.stages - 1>();"),
    of_mx("exponents of the block before", "x_words[i] >> (8 * kBlocks * step)", "x_words[i] >> (8 * kBlocks * (step / 2 * 2))"),
    of_mx("exponents of the upper rows for all", "lane / 4 + lane % 2 * 8", "lane / 4"),
    of_mx("exponents of w of the next column", "warp_column + j * 8 + lane / 4]", "warp_column + (j ^ 1) * 8 + lane / 4]"),
    of_mx("exponents of half the rows", "if (thread >= (T.rows + T.columns) / 4) return;", "if (thread >= T.rows / 4) return;"),
    of_mx("nibbles exchanged", "w[j][0] = four[j] << 2 & 0x3C3C3C3CU;", "w[j][0] = four[j] >> 2 & 0x3C3C3C3CU;", "*fp8_fp4_s"),
    of_mx("sums of the slab before", "all = __fadd_rn(all, sum", "all = __fadd_rn(0.0F, sum"),
    of_mx("the row's power of two twice", "exponent - exponent_of_row() + 127", "exponent + 127", "*_s", "mx_quantize"),
    of_mx("exponents behind the row", "b < this->a.width / 32; b +=", "b < 0; b +=", "*_s", "mx_quantize"),
    of_mxfp4("blocks of E2M1 exchanged", "w[j][block] = four[j];", "w[j][1 - block] = four[j];"),
    of_mxfp4("rows of E2M1 exchanged", "lane / 8 % 2) * 8 * kXRow", "1 - lane / 8 % 2) * 8 * kXRow"),
    of_mx("the upper columns forgotten", "high | other_high << 4", "high | high << 4", "fp4_s", "mx_quantize"),
    of_mx("a block of two lanes", "        largest = Base::larger(largest, gpu::shfl_xor(largest, 2));\n", "", "*_s", "mx_quantize"),
    of_primitive("load_store_16", "gpu::load<T>(place)", "gpu::load<T>(a.bytes)"),
    of_primitive("cp_async_8", "(to, from, kept)", "(to, from)"),
    of_primitive("cp_async16", "threadIdx.x * 16, keep)", "threadIdx.x * 16)"),
    of_primitive("barriers", "gpu::barrier_sync(2, 128);", ""),
    of_primitive("lanes", "gpu::shfl_down(of(lane), by)", "gpu::shfl_up(of(lane), by)"),
    of_primitive("ldmatrix_x4_trans", "gpu::ldmatrix_x4_trans(r, row)", "gpu::ldmatrix_x4(r, row)"),
    of_primitive("mma_s8", "gpu::mma_s8(c, x, y)", "gpu::mma_u8s8(c, x, y)"),
    of_primitive("mma_bf16", "gpu::mma_bf16(c, x, y)", "gpu::mma_f16(c, x, y)"),
    of_primitive("bf16", "gpu::pack_bf16(x, y);\n    int", "gpu::pack_bf16(y, x);\n    int"),
    of_primitive("numbers", "gpu::exp2_fast(x) - power", "gpu::exp2_fast(x) * 1.00001F - power"),
    of_primitive("mma_e4m3", "gpu::mma_e4m3(c, x, y)", "gpu::mma_bf16(c, x, y)", 89),
    of_primitive("e4m3", "gpu::pack_e4m3(middle, -middle)", "gpu::pack_e4m3(size(low), -middle)", 89),
    of_primitive("mbarriers", "gpu::mbarrier_wait(barrier_place(), phase);", "", 90),
    of_primitive("bulk_load", "a.bytes + 2048, 48", "a.bytes + 2064, 48", 90),
    of_primitive("wgmma_s8", "tile_a + step * 32", "tile_a", 90),
    of_primitive("wgmma_bf16_registers", "registers[step], b", "registers[0], b", 90),
    of_primitive("wgmma_f16_transposed", "2 * kDepth * 128)\n", "1024)\n", 90),
    of_primitive("mma_mxfp8", "lane / 4 + lane % 4 * 8, row_b", "lane / 4, row_b", 120),
    of_primitive("mma_mxfp4", "exponent_b(row_b, 0), exponent_b(row_b, 1)", "exponent_b(row_b, 0), exponent_b(row_b, 0)", 120),
    of_primitive("e2m1", "gpu::pack_e2m1(middle, -middle)", "gpu::pack_e2m1(middle, -size(low))", 120),
    of_rotation("a pass over the lanes forgotten", "for (int distance = 1; distance < 32; distance *= 2) {\n            if (distance * 8", "for (int distance = 2; distance < 32; distance *= 2) {\n            if (distance * 8"),
    of_rotation("a pass too many", "if (distance >= a.rotation) return;", "if (distance > a.rotation) return;"),
    of_rotation("the digit between lanes forgotten", "if (a.rotation < 16) return;", "if (a.rotation < 64) return;"),
    of_rotation("signs of the wrong half", "values[i + 4] = sum - other;", "values[i + 4] = other - sum;"),
    of_rotation("factors forgotten", "factors ? a.rotation_factors[u * 8 + i] : 1.0F", "1.0F"),
    of_rotation("another lane's number", "int left = digit < 2 ? 0 : digit - 1;", "int left = digit < 2 ? 0 : digit - 2;", "rotation_steps"),
    of_rotation("the difference the wrong way round", "other - value : value + other", "value - other : value + other", "rotation_steps"),
    of_rotation("columns in their own order", "a.column_order[first + i], a.x_type", "first + i, a.x_type"),
    of_convolution("no barrier in the loop", "__syncthreads();  // all have read the stage that is filled now", ""),
    of_convolution("no barrier before the pixels are read", "        find_pixels();\n        __syncthreads();", "        find_pixels();"),
    of_convolution("waits for a stage too few", "gpu::cp_async_wait<T.stages - 2>();", "gpu::cp_async_wait<T.stages - 1>();"),
    of_convolution("fills the stage that is read", "fetch(slab + T.stages - 1);\n            gpu", "fetch(slab + T.stages);\n            gpu"),
    of_convolution("no swizzle of x", "(chunk ^ (row & 1) * 4) * 16", "chunk * 16"),
    of_convolution("taps above the picture", "if (line < 0 || column < 0 ||", "if (column < 0 ||"),
    of_convolution("taps beyond the last line", "if (row >= a.x_size.height || place", "if (place"),
    of_convolution("frames before the first one forgotten", "if (frame < 0) return nullptr;", "return nullptr;"),
    of_convolution("a frame too early", "frame += a.before_frames;", "frame += a.before_frames - 1;"),
    of_convolution("numbers behind the last tap", "|| tap_frame >= a.kernel.frames) return", ") return"),
    of_convolution("the next tap without the next line", "            if (++tap_line < a.kernel.height) continue;\n", ""),
    of_convolution("channels of the next pixel", "from != nullptr && channel + e < a.channels", "from != nullptr"),
    of_convolution("the stride forgotten", "of_frame * a.stride.height", "of_frame", "*wide_strided*", "wide"),
    of_convolution("pixels not halved", "column >> a.doubled", "column", "*doubled*"),
    of_convolution("the lower part forgotten", "other < T.parts - part", "other < T.parts - 1 - part + (part == 0 ? 0 : 1)"),
    of_convolution("the third part forgotten", "other < T.parts - part", "other < (part == 0 ? 2 : T.parts - part)", "*exact*", "exact"),
    of_convolution("parts of the other float", "(parts[i] & 0xFFFF0000U)", "(parts[i] << 16)"),
    of_convolution("halves of a step exchanged", "lane / 8 % 2 * 128", "(1 - lane / 8 % 2) * 128"),
    of_convolution("a pixel too many", "const bool in = pixel < a.pixels;", "const bool in = pixel <= a.pixels;"),
    of_convolution("the sum is not added", "__fadd_rn(values[e], bias[e])", "__fadd_rn(0.0F, bias[e])"),
    of_planning("the last row of a cell forgotten", "row = range.begin; row < range.end; ++row", "row = range.begin; row + 1 < range.end; ++row", "PlansAreThoseOfTheCpu", "cell_means_f32"),
    of_planning("means not waited for", "    __syncthreads();\n    if (panel >= panels) return;", "    if (panel >= panels) return;", "PlansAreThoseOfTheCpu", "mean_products"),
    of_planning("contracted", "__fadd_rn(sums[r], __fmul_rn(queries[r * dim + d], key))", "__fmaf_rn(queries[r * dim + d], key, sums[r])", "PlansAreThoseOfTheCpu", "mean_products"),
    of_planning("-0 is less than 0", "__float_as_uint(__fadd_rn(x, 0.0F))", "__float_as_uint(x)", "TheBestScoresOfARow", "keep_best"),
    of_planning("a score too few", "sum_over_warp(above) >= a.rank", "sum_over_warp(above) > a.rank", "TheBestScoresOfARow", "keep_best"),
    of_planning("NaN is a score like others", "nan = nan || scores[c] != scores[c];", "", "TheBestScoresOfARow", "keep_best"),
    of_planning("blocks one place too far", "((1U << planning_lane()) - 1)", "((2U << planning_lane()) - 1)", "PlansAreThoseOfTheCpu", "block_lists"),
    of_planning("weights not waited for", "    __syncwarp();\n    const int half", "    const int half", "PlansAreThoseOfTheCpu", "sample_shares"),
    of_planning("squares not waited for", "    __syncthreads();\n    if (channel >= a.types) return;", "    if (channel >= a.types) return;", "PlansAreThoseOfTheCpu", "sample_errors"),
    of_planning("an output over the weights of all keys", "SampleSums::joined(sums.weights, type)", "SampleSums::joined(sums.weights, -1)", "PlansAreThoseOfTheCpu", "sample_errors"),
    of_planning("the largest error wins", "if (!(error < least)) continue;", "if (error < least && type != 0) continue;", "PlansAreThoseOfTheCpu", "choose_by_error"),
    of_planning("cells of the first mask", "a.from + a.grid_of(map) * a.from_rows * a.from_columns", "a.from", "GivenMasksMayBeFinerAndShared", "place_cells"),
    of_planning("the first row of a cell alone", "for (std::int32_t row = rows.begin; row < rows.end && !kept; ++row)\n        for", "for (std::int32_t row = rows.begin; row < rows.begin + 1; ++row)\n        for", "GivenMasksMayBeFinerAndShared", "place_cells"),
    of_planning("the first column of a cell alone", "c < columns.end && !kept; ++c)\n            kept = from", "c < columns.begin + 1; ++c)\n            kept = from", "GivenMasksMayBeFinerAndShared", "place_cells"),
    Mutant("planning: cells of the first type", "src/kernels/planning.h", "choice != nullptr ? choice[map] :", "choice != nullptr ? 0 :",
           "src/kernels/cuda/planning.cu", "CudaPlanning.CellsAndGivenMasks", "aerogel_cuda_tests"),
    of_planning("keys in the order of the first type", "a.k_orders + type * a.k_len", "a.k_orders", "AttentionFollowsAPlanOfTheDevice", "fan_out"),
    of_planning("cells of a narrower grid", "from[row * a.from_columns + c]", "from[row * a.from_columns / 2 + c]", "GivenMasksMayBeFinerAndShared", "place_cells"),
    of_planning("every map has a grid of its own", "a.grid_of(map) * a.from_rows", "map * a.from_rows", "GivenMasksMayBeFinerAndShared", "place_cells"),
    of_planning("one row of cells alone", "row < rows.end && !kept; ++row)\n        for (std::int32_t c = columns.begin; c < columns.end && !kept; ++c)\n            kept = from",
                "row < rows.begin + 1; ++row)\n        for (std::int32_t c = columns.begin; c < columns.end && !kept; ++c)\n            kept = from", "GivenMasksMayBeFinerAndShared", "place_cells"),
    of_planning("cells the other way round", "a.grid[cell] = kept ? 1 : 0;", "a.grid[cell] = kept ? 0 : 1;", "CellsAndGivenMasks", "place_cells"),
    of_planning("a cell too many", "if (cell >= a.maps * a.rows * a.columns) return;", "if (cell > a.maps * a.rows * a.columns) return;", "GivenMasksMayBeFinerAndShared", "place_cells"),
    of_planning("tokens not reversed", "kPlanningStride - 1 - place, channel", "place, channel", "StridedProductsAreThoseOfTokens", "strided_products_*"),
    of_planning("the tile is overwritten", "add_strided<kType>(sums, q, k);\n            __syncthreads();", "add_strided<kType>(sums, q, k);", "StridedProductsAreThoseOfTokens", "strided_products_*"),
    of_planning("no swizzle", "((chunk ^ (row & 7)) << 4)", "(chunk << 4)", "StridedProductsAreThoseOfTokens", "strided_products_*"),
    of_planning("sorted without waiting", "            __syncthreads();\n#pragma unroll 1\n", "#pragma unroll 1\n", "SharesOfEqualScoresAreEqual", "keep_shares"),
    of_planning("total of another row", "gpu::shfl(total, row)", "gpu::shfl(total, 0)", "SharesOfEqualScoresAreEqual", "*parts"),
]
