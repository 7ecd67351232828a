// Every attention row of CUDA over tests/problems/attention.txt, launched through the driver of the tests:
// results within the bounds that the CPU's rows are held to, early and late copies, several orders, no bank
// conflict.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "kernels/cuda/rows/attention_rows.h"
#include "kernels/shuffled_tokens.h"

namespace aerogel::testing {
namespace {

TEST(CudaAttention, AllProblemsWithinBounds) {
    const LaunchReport report;
    int next = 0, cases = 0;
    for (const AttentionCase& test_case : attention_cases()) {
        if (!is_small(test_case.problem)) continue;
        AttentionData data(test_case);
        for (const AttentionKernel& kernel : cuda_rows(test_case.problem)) {
            ++cases;
            ++next;
            const EmulatorMood mood(next % 2 == 0, next);
            EXPECT_EQ(within_bounds(kernel, data), "") << kernel.name;
        }
    }
    EXPECT_GT(cases, own_rows_only() ? 15 : 40);
    EXPECT_EQ(report.lines_with("matrix_conflicts"), "");
}

TEST(CudaAttention, Int8ProblemsWithinBounds) {
    const LaunchReport report;
    int next = 0;
    for (const AttentionCase& test_case : attention_cases()) {
        if (test_case.problem.causal || test_case.problem.biased) continue;
        ++next;
        if (!is_small(test_case.problem)) continue;
        AttentionData arrays(test_case);
        QuantizedData data(arrays, static_cast<Scales>(next % 4));
        for (const AttentionKernel& kernel : cuda_rows(data.problem)) {
            const EmulatorMood mood(next % 8 < 4, next);
            data.solve(kernel);
            const PaddedArray o = run_row(kernel, arrays, data.problem, data.call()).o;
            EXPECT_EQ(compare(data, o) + golden_difference(kernel, arrays, o, data.bound), "")
                << kernel.name << " scales " << next % 4;
        }
    }
    EXPECT_EQ(report.lines_with("matrix_conflicts"), "");
}

// Rows of whole 16 bytes come by asynchronous copies, others element by element.
TEST(CudaAttention, AlignedRowsWithinBounds) {
    const LaunchReport report;
    int seed = 0;
    for (const char* line :
         {"heads=2 q_len=70 k_len=150 head_dim=64",
          "heads=2 kv_heads=1 q_len=130 k_len=200 head_dim=40 layout=bsnd", "q_len=33 k_len=300 head_dim=128",
          "q_len=40 k_len=100 head_dim=256", "heads=2 q_len=100 k_len=333 head_dim=72 mask=32x24 density=0.4",
          "q_len=90 k_len=70 head_dim=64 causal=yes layout=bsnd", "q_len=130 k_len=900 head_dim=64"}) {
        const AttentionCase test_case = parse_attention_case(line + std::string(" dtype=bf16 margin=8"));
        for (const bool late : {false, true}) {
            const EmulatorMood mood(late, ++seed);
            for (const AttentionKernel& kernel : cuda_rows(test_case.problem)) {
                AttentionData data(test_case);
                EXPECT_EQ(within_bounds(kernel, data), "") << kernel.name << " late " << late;
                const PaddedArray expected = run_row(kernel, data).o;
                const ShuffledTokens shuffled(data);
                EXPECT_EQ(shuffled.undone(run_row(kernel, data).o).bytes, expected.bytes)
                    << kernel.name << line;
            }
        }
    }
    EXPECT_EQ(report.lines_with("matrix_conflicts"), "");
}

TEST(CudaAttention, F16WithinBounds) {
    int next = 0;
    for (const std::string line :
         {"heads=2 q_len=70 k_len=150 head_dim=64 margin=8", "q_len=33 k_len=70 head_dim=33",
          "heads=2 kv_heads=1 q_len=40 k_len=100 head_dim=128 margin=8 layout=bsnd",
          "q_len=40 k_len=90 head_dim=200 mask=16x24 density=0.5"}) {
        const AttentionCase test_case = parse_attention_case(line + " dtype=f16");
        AttentionData data(test_case);
        for (const AttentionKernel& kernel : cuda_rows(test_case.problem))
            EXPECT_EQ(within_bounds(kernel, data), "") << kernel.name;
        QuantizedData quantized(data, static_cast<Scales>(++next % 2));
        for (const AttentionKernel& kernel : cuda_rows(quantized.problem)) {
            quantized.solve(kernel);
            EXPECT_EQ(compare(quantized, run_row(kernel, data, quantized.problem, quantized.call()).o), "")
                << kernel.name;
        }
    }
}

TEST(CudaAttention, TokensInAnyOrderGiveTheSameBits) {
    for (const std::string line :
         {"heads=4 kv_heads=2 q_len=70 k_len=150 head_dim=40 batch=2",
          "heads=2 q_len=100 k_len=200 head_dim=48 mask=24x40 density=0.5 layout=bsnd"}) {
        for (const char* dtype : {" dtype=f32", " dtype=bf16"}) {
            const AttentionCase test_case = parse_attention_case(line + dtype);
            AttentionData data(test_case);
            QuantizedData quantized(data, Scales::per_token);
            std::vector<PaddedArray> expected;
            const auto run_all = [&](const std::function<void(const RowResult&)>& visit) {
                for (const AttentionKernel& kernel : cuda_rows(test_case.problem))
                    visit(run_row(kernel, data));
                for (const AttentionKernel& kernel : cuda_rows(quantized.problem))
                    visit(run_row(kernel, data, quantized.problem, quantized.call()));
            };
            run_all([&](const RowResult& result) { expected.push_back(result.o); });
            const ShuffledTokens shuffled(data);
            std::size_t next = 0;
            run_all([&](const RowResult& result) {
                EXPECT_EQ(shuffled.undone(result.o).bytes, expected[next++].bytes) << line << dtype;
            });
        }
    }
}

TEST(CudaAttention, MasksOfKeysHideThem) {
    for (const std::string line :
         {"heads=2 batch=3 q_len=70 k_len=200 head_dim=64",
          "heads=4 kv_heads=2 batch=2 q_len=40 k_len=131 head_dim=100 layout=bsnd"}) {
        for (const char* dtype : {" dtype=f32", " dtype=bf16"}) {
            const HiddenKeys hidden(line + dtype);
            AttentionData data(hidden.test_case);
            const AttentionProblem problem = hidden.problem(hidden.test_case.problem);
            for (const AttentionKernel& kernel : cuda_rows(problem)) {
                solve_for(data, kernel);
                EXPECT_EQ(compare(data, run_row(kernel, data, problem, hidden.call(call_of(data))).o,
                                  kernel.rounds_weights),
                          "")
                    << kernel.name << line << dtype;
            }
            AttentionProblem in_fp8 = problem;
            in_fp8.format = AttentionFormat::fp8;
            AttentionCall fp8_call = hidden.call(call_of(data));
            fp8_call.q_tokens = fp8_call.k_tokens = fp8_call.v_tokens = 64;
            fp8_call.v_channels = problem.head_dim;
            for (const AttentionKernel& kernel : cuda_rows(in_fp8)) {
                if (problem.dtype != DType::f32) continue;
                AttentionData rounded(hidden.test_case);
                round_operands(rounded, in_fp8.format, fp8_call);
                solve_for(rounded, kernel);
                EXPECT_EQ(compare(rounded, run_row(kernel, data, in_fp8, fp8_call).o), "") << kernel.name;
            }
            QuantizedData quantized(data, Scales::per_token);
            const AttentionProblem in_int8 = hidden.problem(quantized.problem);
            for (const AttentionKernel& kernel : cuda_rows(in_int8)) {
                quantized.solve(kernel);
                EXPECT_EQ(compare(quantized, run_row(kernel, data, in_int8, hidden.call(quantized.call())).o),
                          "")
                    << kernel.name << line << dtype;
            }
        }
    }
}

TEST(CudaAttention, AFullMaskGivesTheBitsOfDenseAttention) {
    for (const std::string line :
         {"q_len=140 k_len=301 head_dim=64", "q_len=33 k_len=200 head_dim=80 dtype=bf16"}) {
        const AttentionCase dense = parse_attention_case(line);
        AttentionData data(dense);
        QuantizedData quantized(data, Scales::per_token);
        for (const char* mask : {" mask=64x64 fill=full", " mask=24x40 fill=full"}) {
            const AttentionCase full = parse_attention_case(line + mask);
            AttentionData masked(full);
            QuantizedData quantized_masked(masked, Scales::per_token);
            for (const AttentionKernel& kernel : cuda_rows(dense.problem))
                EXPECT_EQ(run_row(kernel, masked).o.bytes, run_row(kernel, data).o.bytes)
                    << kernel.name << mask;
            for (const AttentionKernel& kernel : cuda_rows(quantized.problem))
                EXPECT_EQ(run_row(kernel, masked, quantized_masked.problem, quantized_masked.call()).o.bytes,
                          run_row(kernel, data, quantized.problem, quantized.call()).o.bytes)
                    << kernel.name << mask;
        }
    }
}

TEST(CudaAttention, LogSumsAreThoseOfTheReference) {
    int next = 0;
    for (const std::string line :
         {"heads=2 q_len=70 k_len=150 head_dim=40", "q_len=70 k_len=40 head_dim=64 causal=yes",
          "q_len=70 k_len=140 head_dim=64 mask=16x32 fill=empty_rows density=0.5"}) {
        for (const char* dtype : {" dtype=f32", " dtype=bf16"}) {
            const AttentionCase test_case = parse_attention_case(line + dtype);
            AttentionData data(test_case);
            QuantizedData quantized(data, Scales::per_token);
            const bool int8 = !test_case.problem.causal && next++ % 2 == 0;
            AttentionProblem problem = int8 ? quantized.problem : test_case.problem;
            problem.wants_lse = true;
            AttentionCall call = int8 ? quantized.call() : call_of(data);
            const AttentionCall given = call;
            PaddedArray o = make_output(test_case);
            std::vector<float> expected(at(problem.maps() * problem.q_len));
            const AttentionKernel& reference = reference_of(problem.format);
            std::vector<double> workspace(reference.workspace_bytes(problem) / sizeof(double) + 1);
            call.o = o.bytes.data();
            call.o_strides = o.strides;
            call.lse = expected.data();
            call.workspace = reinterpret_cast<std::byte*>(workspace.data());
            reference.run(problem, call);
            for (const AttentionKernel& kernel : cuda_rows(problem)) {
                const std::vector<float> got = run_row(kernel, data, problem, given).lse;
                for (std::size_t i = 0; i < got.size(); ++i) {
                    if (std::isinf(expected[i]))
                        EXPECT_EQ(got[i], expected[i]) << kernel.name << line << dtype;
                    else
                        EXPECT_NEAR(got[i], expected[i], 1e-3F) << kernel.name << line << dtype;
                }
            }
        }
    }
}

TEST(CudaAttention, ANaNReachesTheRowsThatSeeItAndNoOther) {
    for (const char* dtype : {"f32", "bf16"}) {
        AttentionCase test_case = parse_attention_case(
            std::string("q_len=96 k_len=101 head_dim=40 mask=32x20 fill=full dtype=") + dtype);
        test_case.mask.row_start = {0, 2, 4, 6};
        test_case.mask.columns = {0, 1, 1,
                                  2, 4, 5};  // the 20 keys of block 2 are seen by queries 32..63 only
        for (const bool in_values : {false, true}) {
            AttentionData data(test_case);
            PaddedArray& array = in_values ? data.v : data.k;
            array.set(data.kv_index(array.strides, 0, 47) + 5, std::numeric_limits<double>::quiet_NaN());
            data.q.set(data.index(data.q.strides, 0, 3), std::numeric_limits<double>::quiet_NaN());
            for (const AttentionKernel& kernel : cuda_rows(test_case.problem)) {
                const PaddedArray o = run_row(kernel, data).o;
                for (std::int64_t i = 0; i < 96 * 40; ++i)
                    EXPECT_EQ(std::isnan(o.get(data.index(o.strides, 0, i / 40) + i % 40)),
                              i / 40 == 3 || (i / 40 / 32 == 1 && (!in_values || i % 40 == 5)))
                        << kernel.name << " " << dtype << " query " << i / 40 << " channel " << i % 40;
            }
        }
    }
}

TEST(CudaAttention, ANaNInALaterValueStaysInTheTile) {
    for (const char* dtype : {"f32", "bf16"}) {
        const LaterNaN later(dtype);
        for (const AttentionKernel& kernel : cuda_rows(later.test_case.problem))
            EXPECT_EQ(later.compare(run_row(kernel, later.data).o), "") << kernel.name << " " << dtype;
    }
}

TEST(CudaAttention, Int8ScalesThatAreNaNReachExactlyWhatDependsOnThem) {
    AttentionCase test_case = parse_attention_case("q_len=96 k_len=201 head_dim=40 mask=32x20 fill=full");
    test_case.mask.row_start = {0, 2, 4, 6};
    test_case.mask.columns = {0, 1, 4, 5, 7, 8};  // groups of 64 keys: 0; 1; 2
    const float nan = std::numeric_limits<float>::quiet_NaN();
    for (const std::string name : {"q", "k", "unseen k", "v"}) {
        AttentionData arrays(test_case);
        QuantizedData data(arrays, Scales::per_token);
        if (name == "q") data.q_scale[40] = nan;
        if (name == "k") data.k_scale[101] = nan;
        if (name == "unseen k") data.k_scale[79] = nan;
        if (name == "v") data.v_scale[40 + 5] = nan;
        for (const AttentionKernel& kernel : cuda_rows(data.problem)) {
            const PaddedArray o = run_row(kernel, arrays, data.problem, data.call()).o;
            for (std::int64_t i = 0; i < 96 * 40; ++i) {
                const bool of_block = i / 40 / 32 == 1;
                const bool want = name == "q"   ? i / 40 == 40
                                  : name == "k" ? of_block
                                  : name == "v" ? of_block && i % 40 == 5
                                                : false;
                EXPECT_EQ(std::isnan(o.get(arrays.index(o.strides, 0, i / 40) + i % 40)), want)
                    << kernel.name << " " << name << " query " << i / 40 << " channel " << i % 40;
            }
        }
    }
}

/// What find_scales() finds: scales of q, k and v, means of k and v, one behind the other.
std::vector<float> scales_of(const AttentionKernel& kernel, QuantizedData& data, std::int64_t block,
                             bool on_device) {
    const AttentionProblem& p = data.problem;
    const std::int64_t kv_maps = p.kv_maps(), groups = (p.k_len + 63) / 64, means = kv_maps * p.head_dim;
    const std::int64_t sizes[] = {p.maps() * p.q_len, kv_maps * p.k_len, groups * means, means, means};
    std::vector<float> found(at(sizes[0] + sizes[1] + sizes[2] + sizes[3] + sizes[4]));
    std::vector<double> sums(at(mean_portions(p.k_len) * means));
    DeviceArrays arrays;
    AttentionCall call = data.call();
    const auto find = [&] {
        if (on_device) call = to_device(p, data.data, call, arrays);
        float* const to = on_device ? arrays.copy(found.data(), found.size()) : found.data();
        call.q_tokens = block;
        call.k_tokens = 2 * block;
        call.int8 = {.q_scale = to,
                     .k_scale = to + sizes[0],
                     .v_scale = to + sizes[0] + sizes[1],
                     .k_mean = to + sizes[0] + sizes[1] + sizes[2],
                     .v_mean = to + sizes[0] + sizes[1] + sizes[2] + means,
                     .sums = on_device ? arrays.copy(sums.data(), sums.size()) : sums.data()};
        kernel.find_scales(p, call);
        if (on_device)
            DeviceArrays::memory().to_host(Device::cuda, found.data(), to, found.size() * sizeof(float));
    };
    if (on_device)
        cuda::kMachine.run(Device::cuda, find);
    else
        find();
    return found;
}

TEST(CudaAttention, Int8ScalesAreThoseOfTheReference) {
    int next = 0;
    for (const std::string line :
         {"heads=3 q_len=33 k_len=129 head_dim=40 batch=2 layout=bsnd", "q_len=70 k_len=1100 head_dim=33",
          "heads=4 kv_heads=2 q_len=100 k_len=70 head_dim=130"}) {
        for (const char* dtype : {" dtype=f32", " dtype=bf16"}) {
            const AttentionCase test_case = parse_attention_case(line + dtype);
            AttentionData arrays(test_case);
            QuantizedData data(arrays, Scales::per_token);
            if (++next % 2 == 0) arrays.q.set(7, std::numeric_limits<double>::infinity());
            const std::int64_t block = next % 3 == 0 ? 1 : 48;
            const std::vector<float> expected =
                scales_of(reference_of(AttentionFormat::int8), data, block, false);
            for (const AttentionKernel& kernel : cuda_rows(data.problem)) {
                const std::vector<float> found = scales_of(kernel, data, block, true);
                EXPECT_EQ(std::memcmp(found.data(), expected.data(), found.size() * 4), 0) << line << dtype;
            }
        }
    }
}

TEST(CudaAttention, Int8ScalesFoundOnTheWayAreThoseFoundBefore) {
    for (const char* line :
         {"heads=2 q_len=40 k_len=150 head_dim=40", "q_len=33 k_len=70 head_dim=200 dtype=bf16"}) {
        const AttentionCase test_case = parse_attention_case(line);
        AttentionData arrays(test_case);
        arrays.v.set(5, std::numeric_limits<double>::infinity());
        QuantizedData data(arrays, Scales::per_token);
        for (const AttentionKernel& kernel : cuda_rows(data.problem)) {
            const PaddedArray expected = run_row(kernel, arrays, data.problem, data.call(), true).o;
            data.on_the_way = true;
            EXPECT_EQ(run_row(kernel, arrays, data.problem, data.call(), true).o.bytes, expected.bytes)
                << line;
            data.on_the_way = false;
        }
    }
}

TEST(CudaAttention, RoundingFormatsWithinBounds) {
    int next = 0;
    for (const char* line :
         {"heads=3 q_len=33 k_len=129 head_dim=40 batch=2 layout=bsnd", "q_len=70 k_len=150 head_dim=130",
          "heads=4 kv_heads=2 q_len=70 k_len=90 head_dim=64 mask=16x32 density=0.5",
          "q_len=40 k_len=70 head_dim=33 causal=yes", "q_len=33 k_len=100 head_dim=64 values=denormal"}) {
        AttentionCase test_case = parse_attention_case(line);
        for (const AttentionFormat format :
             {AttentionFormat::fp8, AttentionFormat::mix, AttentionFormat::mxfp8, AttentionFormat::mxfp4,
              AttentionFormat::int8_qk}) {
            AttentionData data(test_case), rounded(test_case);
            AttentionProblem problem = test_case.problem;
            problem.format = format;
            AttentionCall call = call_of(data);
            call.q_tokens = ++next % 3 == 0 ? 1 : 48;
            call.k_tokens = 64;
            call.v_tokens = 100;
            call.v_channels = next % 2 == 0 ? 16 : test_case.problem.head_dim;
            call.smooth_k = next % 2 == 0;
            if (next % 4 == 0) call.mxfp4_scale = {2, next % 8 == 0 ? 7.25F : 7.0F};
            round_operands(rounded, format, call);
            for (const AttentionKernel& kernel : cuda_rows(problem)) {
                solve_for(rounded, kernel);
                const EmulatorMood mood(next % 2 == 0, next);
                EXPECT_EQ(compare(rounded, run_row(kernel, data, problem, call).o), "")
                    << kernel.name << " " << to_string(format) << " " << next;
            }
        }
    }
}

}  // namespace
}  // namespace aerogel::testing
