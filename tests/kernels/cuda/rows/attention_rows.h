// The attention rows of CUDA launched on arrays of a test, and what the rounding formats make of those.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "kernels/attention_cases.h"
#include "kernels/attention_rounding.h"
#include "kernels/cuda/rows/device_arrays.h"
#include "kernels/golden.h"
#include "kernels/int8_attention_cases.h"

namespace aerogel::testing {

/// Products of one problem that an emulated kernel has time for; a GPU has time for all.
constexpr std::int64_t kMostProducts = 24'000'000;

inline bool is_small(const AttentionProblem& p) {
    return std::getenv("AEROGEL_CUDA_DRIVER") == nullptr ||
           p.maps() * p.q_len * p.k_len * p.head_dim <= kMostProducts;
}

/// Without the rows that every card has.
inline bool own_rows_only() {
    const char* machine = std::getenv("AEROGEL_TEST_MACHINE");
    return machine != nullptr && std::string(machine) == "cuda_own";
}

inline KernelReferences<AttentionKernel> cuda_rows(const AttentionProblem& problem) {
    KernelReferences<AttentionKernel> rows;
    for (const auto& row : cuda::kMachine.attention)
        if (!(own_rows_only() && (row.level & 1) != 0) && row.kernel->is_for(problem) &&
            cuda::kMachine.why_not(Device::cuda, row.level).empty() && row.kernel->why_not(problem).empty())
            rows.push_back(*row.kernel);
    return rows;
}

inline std::size_t at(std::int64_t i) {
    return static_cast<std::size_t>(i);
}

/// The arrays of a call on the device.
inline AttentionCall to_device(const AttentionProblem& p, const AttentionData& data, AttentionCall call,
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
    call.key_mask = arrays.copy(call.key_mask, at(p.batch * p.k_len));
    if (p.masked) {
        call.mask.row_start = arrays.copy(call.mask.row_start, at(p.maps() * p.q_blocks() + 1));
        call.mask.columns = arrays.copy(call.mask.columns, data.test_case.mask.columns.size());
    }
    return call;
}

inline void int8_to_device(const AttentionProblem& p, Int8Arrays& of, DeviceArrays& arrays) {
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
inline RowResult run_row(const AttentionKernel& kernel, const AttentionData& data, AttentionProblem problem,
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

inline RowResult run_row(const AttentionKernel& kernel, const AttentionData& data) {
    return run_row(kernel, data, data.test_case.problem, call_of(data));
}

/// The bound of a row whose weights are rounded to bf16: with eight bits, half a unit in the last place is up
/// to 2^-8 of a number.
inline void solve_for(AttentionData& data, const AttentionKernel& kernel) {
    constexpr double kUnit = 0x1p-8;
    if (data.weight_unit != kUnit) data.product_error = -1.0;  // whatever was solved for
    data.weight_unit = kUnit;
    data.solve(kernel);
}

/// Empty, or the first element that differs from the golden answer.
inline std::string golden_difference(const AttentionKernel& kernel, const AttentionData& data,
                                     const PaddedArray& o, std::vector<double> bounds) {
    const AttentionProblem& p = data.test_case.problem;
    std::vector<float> got;
    for (std::int64_t i = 0; i < p.maps() * p.q_len * p.head_dim; ++i) {
        const std::int64_t row = i / p.head_dim;
        const std::int64_t place = data.index(o.strides, row / p.q_len, row % p.q_len) + i % p.head_dim;
        got.push_back(static_cast<float>(o.get(place)));
        if (kernel.rounds_weights) bounds[at(i)] += data.weight_rounding[at(i)];
    }
    return golden_difference(std::string(kernel.name) + " " + data.test_case.line, got, bounds);
}

inline std::string within_bounds(const AttentionKernel& kernel, AttentionData& data) {
    solve_for(data, kernel);
    const PaddedArray o = run_row(kernel, data).o;
    return compare(data, o, kernel.rounds_weights) + golden_difference(kernel, data, o, data.bound);
}

/// A mask of keys, and the case with a mask of blocks that says the same: some keys, a run of 80 and all of
/// the last item of the batch are hidden.
struct HiddenKeys {
    explicit HiddenKeys(const std::string& line) : test_case(parse_attention_case(line)) {
        AttentionProblem& p = test_case.problem;
        p.masked = true;
        p.block_q = p.q_len;
        p.block_k = 1;
        BlockMask& mask = test_case.mask;
        mask = {p.batch, p.heads, p.q_len, p.k_len, p.block_q, p.block_k, {0}, {}};
        for (std::int64_t i = 0; i < p.batch * p.k_len; ++i) {
            const std::int64_t key = i % p.k_len;
            const bool hidden = i / p.k_len + 1 == p.batch || key % 5 == 1 || (key >= 50 && key < 130);
            keys.push_back(hidden ? 0 : 1);
        }
        for (std::int64_t map = 0; map < p.maps(); ++map) {
            for (std::int64_t key = 0; key < p.k_len; ++key)
                if (keys[at(map / p.heads * p.k_len + key)] != 0)
                    mask.columns.push_back(static_cast<std::int32_t>(key));
            mask.row_start.push_back(static_cast<std::int64_t>(mask.columns.size()));
        }
    }
    /// Of the same in another format, without the mask of blocks.
    AttentionProblem problem(AttentionProblem of) const {
        of.masked = false;
        of.hides_keys = true;
        return of;
    }
    AttentionCall call(AttentionCall of) const {
        of.mask = {};
        of.key_mask = keys.data();
        return of;
    }

    AttentionCase test_case;
    std::vector<std::uint8_t> keys;
};

/// The values of q, k or v as rows of f32, rounded, and put back where they were.
inline void round_array(const AttentionData& data, PaddedArray& array,
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
inline void round_operands(AttentionData& data, AttentionFormat format, const AttentionCall& call) {
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
    data.product_error = -1.0;  // to be solved again
    if (int8_qk) return;
    round_array(data, data.v, [&](const RoundedRows& x) {
        if (is(AttentionFormat::mix)) return round_fp8_channels(x);
        if (is(AttentionFormat::fp8)) return round_fp8(x, call.v_tokens, call.v_channels);
        round_mx(x, element, MxAxis::tokens, call.mxfp4_scale);
    });
}

}  // namespace aerogel::testing
