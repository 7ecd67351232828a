// Every attention row of CUDA over tests/problems/attention.txt, launched through the driver of the tests:
// results within the bounds that the CPU's rows are held to, early and late copies, several orders, no bank
// conflict.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>

#include "kernels/attention_cases.h"
#include "kernels/attention_rounding.h"
#include "kernels/cuda/rows/device_arrays.h"
#include "kernels/int8_attention_cases.h"
#include "kernels/shuffled_tokens.h"

namespace aerogel::testing {
namespace {

/// Products of one problem that an emulated kernel has time for; a GPU has time for all.
constexpr std::int64_t kMostProducts = 24'000'000;

bool is_small(const AttentionProblem& p) {
    return std::getenv("AEROGEL_CUDA_DRIVER") == nullptr ||
           p.maps() * p.q_len * p.k_len * p.head_dim <= kMostProducts;
}

KernelReferences<AttentionKernel> cuda_rows(const AttentionProblem& problem) {
    KernelReferences<AttentionKernel> rows;
    for (const auto& row : cuda::kMachine.attention)
        if (row.kernel->is_for(problem) && cuda::kMachine.why_not(Device::cuda, row.level).empty() &&
            row.kernel->why_not(problem).empty())
            rows.push_back(*row.kernel);
    return rows;
}

std::size_t at(std::int64_t i) {
    return static_cast<std::size_t>(i);
}

/// The arrays of a call on the device.
AttentionCall to_device(const AttentionProblem& p, const AttentionData& data, AttentionCall call,
                        DeviceArrays& arrays) {
    const auto strides = [&](AttentionStrides of, std::int64_t maps, std::int64_t tokens) {
        of.order = arrays.orders(of.order, maps, tokens);
        return of;
    };
    call.q = arrays.copy(data.q.bytes.data(), data.q.bytes.size());
    call.k = arrays.copy(data.k.bytes.data(), data.k.bytes.size());
    call.v = arrays.copy(data.v.bytes.data(), data.v.bytes.size());
    call.q_strides = strides(call.q_strides, p.maps(), p.q_len);
    call.k_strides = strides(call.k_strides, p.kv_maps(), p.k_len);
    call.v_strides = strides(call.v_strides, p.kv_maps(), p.k_len);
    call.bias = arrays.copy(call.bias, data.bias.size());
    if (p.masked) {
        call.mask.row_start = arrays.copy(call.mask.row_start, at(p.maps() * p.q_blocks() + 1));
        call.mask.columns = arrays.copy(call.mask.columns, data.test_case.mask.columns.size());
    }
    return call;
}

void int8_to_device(const AttentionProblem& p, Int8Arrays& of, DeviceArrays& arrays) {
    const std::int64_t groups = (p.k_len + kQuantizedKeyGroup - 1) / kQuantizedKeyGroup;
    const auto move = [&](float*& array, std::int64_t count) { array = arrays.copy(array, at(count)); };
    move(of.q_scale, p.maps() * p.q_len);
    move(of.k_scale, p.kv_maps() * p.k_len);
    move(of.v_scale, p.kv_maps() * groups * p.head_dim);
    move(of.q_offset, p.maps());
    move(of.k_offset, p.kv_maps());
    move(of.v_offset, p.kv_maps());
    move(of.k_mean, p.kv_maps() * p.head_dim);
    move(of.v_mean, p.kv_maps() * p.head_dim);
    move(of.v_shift, p.kv_maps() * p.head_dim);
    of.sums = static_cast<double*>(
        arrays.room(at(p.kv_maps() * mean_portions(p.k_len) * p.head_dim) * sizeof(double)));
}

struct RowResult {
    PaddedArray o;
    std::vector<float> lse;
};

/// Runs one row; memory behind its arrays and its workspace is no memory of the device.
RowResult run_row(const AttentionKernel& kernel, const AttentionData& data, AttentionProblem problem,
                  AttentionCall call, bool finds = false) {
    RowResult result = {make_output(data.test_case), {}};
    problem.wants_lse = true;
    result.lse.resize(at(problem.maps() * problem.q_len));
    DeviceArrays arrays;
    cuda::kMachine.run(Device::cuda, [&] {
        call = to_device(problem, data, call, arrays);
        int8_to_device(problem, call.int8, arrays);
        call.o_strides = result.o.strides;
        call.o_strides.order = call.q_strides.order;
        auto* const o = arrays.copy(result.o.bytes.data(), result.o.bytes.size());
        call.o = o;
        call.lse = arrays.copy(result.lse.data(), result.lse.size());
        call.workspace = static_cast<std::byte*>(arrays.room(kernel.workspace_bytes(problem)));
        if (finds) kernel.find_scales(problem, call);
        kernel.run(problem, call);
        DeviceArrays::memory().to_host(Device::cuda, result.o.bytes.data(), o, result.o.bytes.size());
        DeviceArrays::memory().to_host(Device::cuda, result.lse.data(), call.lse,
                                       result.lse.size() * sizeof(float));
    });
    return result;
}

RowResult run_row(const AttentionKernel& kernel, const AttentionData& data) {
    return run_row(kernel, data, data.test_case.problem, call_of(data));
}

/// The bound of a row whose weights are rounded to bf16: with eight bits, half a unit in the last place is up
/// to 2^-8 of a number.
void solve_for(AttentionData& data, const AttentionKernel& kernel) {
    data.product_error = -1.0;  // whatever was solved for
    data.solve(kernel);
    for (double& rounding : data.weight_rounding) rounding *= 2.0;
}

std::string within_bounds(const AttentionKernel& kernel, AttentionData& data) {
    solve_for(data, kernel);
    return compare(data, run_row(kernel, data).o, kernel.rounds_weights);
}

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
    EXPECT_GT(cases, 40);
    EXPECT_EQ(report.lines_with("matrix_conflicts"), "");
}

TEST(CudaAttention, Int8ProblemsWithinBounds) {
    const LaunchReport report;
    int next = 0;
    for (const AttentionCase& test_case : attention_cases()) {
        if (test_case.problem.causal || test_case.problem.biased || !is_small(test_case.problem)) continue;
        AttentionData arrays(test_case);
        QuantizedData data(arrays, static_cast<Scales>(++next % 4));
        for (const AttentionKernel& kernel : cuda_rows(data.problem)) {
            const EmulatorMood mood(next % 8 < 4, next);
            data.solve(kernel);
            EXPECT_EQ(compare(data, run_row(kernel, arrays, data.problem, data.call()).o), "")
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
          "q_len=90 k_len=70 head_dim=64 causal=yes layout=bsnd"}) {
        const AttentionCase test_case = parse_attention_case(line + std::string(" dtype=bf16 margin=8"));
        for (const bool late : {false, true}) {
            AttentionData data(test_case);
            const EmulatorMood mood(late, ++seed);
            for (const AttentionKernel& kernel : cuda_rows(test_case.problem)) {
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

/// The values of q, k or v as rows of f32, rounded, and put back where they were.
void round_array(const AttentionData& data, PaddedArray& array,
                 const std::function<void(const RoundedRows&)>& round) {
    const AttentionProblem& p = data.test_case.problem;
    const bool of_q = &array == &data.q;
    const std::int64_t maps = of_q ? p.maps() : p.kv_maps(), tokens = of_q ? p.q_len : p.k_len;
    std::vector<float> values(at(maps * tokens * p.head_dim));
    const auto place = [&](std::int64_t i) {
        const std::int64_t row = i / p.head_dim;
        return (of_q ? data.index(array.strides, row / tokens, row % tokens)
                     : data.kv_index(array.strides, row / tokens, row % tokens)) +
               i % p.head_dim;
    };
    for (std::size_t i = 0; i < values.size(); ++i)
        values[i] = static_cast<float>(array.get(place(static_cast<std::int64_t>(i))));
    round({values.data(), maps, tokens, p.head_dim});
    for (std::size_t i = 0; i < values.size(); ++i)
        array.set(place(static_cast<std::int64_t>(i)), static_cast<double>(values[i]));
}

/// What kernels/attention_rounding.h does with the operands of a call.
void round_operands(AttentionData& data, AttentionFormat format, const AttentionCall& call) {
    const MxElement element = format == AttentionFormat::mxfp8 ? MxElement::e4m3 : MxElement::e2m1;
    const auto is = [&](AttentionFormat other) { return format == other; };
    const bool int8_qk = is(AttentionFormat::int8_qk);
    round_array(data, data.q, [&](const RoundedRows& x) {
        if (is(AttentionFormat::mix) || int8_qk) return round_int8(x, call.q_tokens);
        if (is(AttentionFormat::fp8)) return round_fp8(x, call.q_tokens);
        round_mx(x, element, MxAxis::channels, call.mxfp4_scale);
    });
    round_array(data, data.k, [&](const RoundedRows& x) {
        if (call.smooth_k) int8_qk ? subtract_int8_means(x) : subtract_means(x);
        if (is(AttentionFormat::mix) || int8_qk) return round_int8(x, call.k_tokens);
        if (is(AttentionFormat::fp8)) return round_fp8(x, call.k_tokens);
        round_mx(x, element, MxAxis::channels, call.mxfp4_scale);
    });
    if (int8_qk) return;
    round_array(data, data.v, [&](const RoundedRows& x) {
        if (is(AttentionFormat::mix)) return round_fp8_channels(x);
        if (is(AttentionFormat::fp8)) return round_fp8(x, call.v_tokens, call.v_channels);
        round_mx(x, element, MxAxis::tokens, call.mxfp4_scale);
    });
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

/// The same numbers in f32.
PaddedArray widened(const PaddedArray& array) {
    const std::size_t count = array.bytes.size() / size_of(array.dtype);
    PaddedArray wide = {std::vector<std::byte>(count * sizeof(float)), array.strides, DType::f32};
    for (std::size_t i = 0; i < count; ++i)
        wide.set(static_cast<std::int64_t>(i), array.get(static_cast<std::int64_t>(i)));
    return wide;
}

/// A call in int8_qk over arrays of 16 bits, and what it must give.
struct Int8QkData {
    Int8QkData(const AttentionCase& test_case, std::int64_t block, bool smooth)
        : data(test_case), expected(test_case), problem(test_case.problem), block_(block), smooth_(smooth) {
        problem.format = AttentionFormat::int8_qk;
        for (PaddedArray* array : {&expected.q, &expected.k}) *array = widened(*array);
        round_operands(expected, problem.format, call());
    }
    AttentionCall call() const {
        AttentionCall call = call_of(data);
        call.q_tokens = block_;
        call.k_tokens = 2 * block_;
        if (block_ == 1) call.k_tokens = 1;
        call.smooth_k = smooth_;
        return call;
    }

    AttentionData data, expected;
    AttentionProblem problem;

  private:
    std::int64_t block_;
    bool smooth_;
};

TEST(CudaAttention, Int8QkWithinBounds) {
    const LaunchReport report;
    int next = 0;
    for (const std::string line :
         {"heads=2 q_len=70 k_len=150 head_dim=64 margin=8", "heads=3 q_len=33 k_len=129 head_dim=40 batch=2 layout=bsnd",
          "heads=2 kv_heads=1 q_len=130 k_len=200 head_dim=128 layout=bsnd margin=8", "q_len=40 k_len=100 head_dim=256",
          "heads=2 q_len=100 k_len=333 head_dim=72 mask=32x24 density=0.4", "q_len=90 k_len=70 head_dim=64 causal=yes",
          "q_len=70 k_len=530 head_dim=100 values=large", "q_len=40 k_len=64 head_dim=33 values=denormal",
          "q_len=70 k_len=90 head_dim=130 mask=16x32 fill=empty_rows density=0.5"}) {
        for (const char* dtype : {" dtype=bf16", " dtype=f16"}) {
            const AttentionCase test_case = parse_attention_case(line + dtype);
            if (test_case.problem.dtype == DType::f16 && test_case.values != Values::normal) continue;
            Int8QkData arrays(test_case, ++next % 3 == 0 ? 24 : 1, next % 4 != 0);
            for (const AttentionKernel& kernel : cuda_rows(arrays.problem)) {
                const EmulatorMood mood(next % 2 == 0, next);
                solve_for(arrays.expected, kernel);
                const PaddedArray o = run_row(kernel, arrays.data, arrays.problem, arrays.call()).o;
                EXPECT_EQ(compare(arrays.expected, o, kernel.rounds_weights), "") << kernel.name << dtype;
                const ShuffledTokens shuffled(arrays.data);
                if (!arrays.call().smooth_k || arrays.call().q_tokens == 1)
                    EXPECT_EQ(
                        shuffled.undone(run_row(kernel, arrays.data, arrays.problem, arrays.call()).o).bytes,
                        o.bytes)
                        << kernel.name << line << dtype;
            }
        }
    }
    EXPECT_EQ(report.lines_with("matrix_conflicts"), "");
}

TEST(CudaAttention, ANaNOfInt8QkReachesTheRowsThatSeeItAndNoOther) {
    AttentionCase test_case =
        parse_attention_case("q_len=96 k_len=101 head_dim=40 mask=32x20 fill=full dtype=bf16");
    test_case.mask.row_start = {0, 2, 4, 6};
    test_case.mask.columns = {0, 1, 1, 2, 4, 5};
    for (const bool in_values : {false, true}) {
        Int8QkData arrays(test_case, 1, false);
        AttentionData& data = arrays.data;
        PaddedArray& array = in_values ? data.v : data.k;
        array.set(data.kv_index(array.strides, 0, 47) + 5, std::numeric_limits<double>::quiet_NaN());
        data.q.set(data.index(data.q.strides, 0, 3), std::numeric_limits<double>::quiet_NaN());
        for (const AttentionKernel& kernel : cuda_rows(arrays.problem)) {
            const PaddedArray o = run_row(kernel, data, arrays.problem, arrays.call()).o;
            for (std::int64_t i = 0; i < 96 * 40; ++i)
                EXPECT_EQ(std::isnan(o.get(data.index(o.strides, 0, i / 40) + i % 40)),
                          i / 40 == 3 || (i / 40 / 32 == 1 && (!in_values || i % 40 == 5)))
                    << kernel.name << " query " << i / 40 << " channel " << i % 40;
        }
    }
}

}  // namespace
}  // namespace aerogel::testing
