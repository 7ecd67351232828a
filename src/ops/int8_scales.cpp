// Room for what the kernels find, and calibrated scales repeated for every token.
#include "ops/int8_scales.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "aerogel/error.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

void check_values(const char* name, const Tensor& tensor, std::int64_t heads, bool is_scale) {
    const std::string prefix = std::string("[quantized_attention] ") + name;
    if (!tensor.defined()) {
        if (is_scale) throw InvalidArgument(prefix + " is missing");
        return;
    }
    if (tensor.dtype() != DType::f32 || tensor.count() != heads || tensor.dim(0) != heads)
        throw InvalidArgument(prefix + " must be f32[" + std::to_string(heads) + ",1], got " +
                              tensor.describe());
    if (tensor.device() != Device::cpu)
        throw InvalidArgument(prefix + " must be on the CPU, got " + tensor.describe() + " on " +
                              tensor.device().describe());
    for (std::int64_t i = 0; i < heads; ++i) {
        const float x = tensor.as<float>()[i];
        const bool right =
            is_scale ? x > 0.0F && std::isfinite(x) : x >= -128.0F && x <= 127.0F && std::nearbyint(x) == x;
        if (!right)
            throw InvalidArgument(prefix + " must be " +
                                  (is_scale ? "positive" : "a whole number in -128..127") + ", got " +
                                  std::to_string(x) + " for head " + std::to_string(i));
    }
}

/// Gives the arrays their places in `memory`, unless it is null; returns the bytes they take.
std::size_t place(const AttentionProblem& problem, const AttentionOptions& options, std::byte* memory,
                  Int8Arrays& arrays) {
    std::size_t used = 0;
    const auto take = [&](auto*& array, std::int64_t count) {
        if (memory != nullptr)
            array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(memory + used);
        used += (static_cast<std::size_t>(count) * sizeof(*array) + 63) / 64 * 64;
    };
    const std::int64_t maps = problem.maps(), kv_maps = problem.kv_maps(), d = problem.head_dim;
    const std::int64_t groups = (problem.k_len + kQuantizedKeyGroup - 1) / kQuantizedKeyGroup;
    take(arrays.q_scale, maps * problem.q_len);
    take(arrays.k_scale, kv_maps * problem.k_len);
    take(arrays.v_scale, kv_maps * groups * d);
    take(arrays.v_mean, kv_maps * d);
    take(arrays.sums, kv_maps * mean_portions(problem.k_len) * d);
    if (options.scales == nullptr) {
        if (options.smooth_k) take(arrays.k_mean, kv_maps * d);
        return used;
    }
    if (options.scales->q_offset.defined()) take(arrays.q_offset, maps);
    if (options.scales->k_offset.defined()) take(arrays.k_offset, kv_maps);
    if (options.scales->v_offset.defined()) {
        take(arrays.v_offset, kv_maps);
        take(arrays.v_shift, kv_maps * d);
    }
    return used;
}

/// One value per head of a tensor, seen from the maps of one side.
struct PerMap {
    const Tensor& values;
    std::int64_t maps, heads;  ///< of the side; the tensor may have a divisor of these heads

    float at(std::int64_t map) const { return values.as<float>()[map % heads / (heads / values.count())]; }
    /// Into `each` elements of every map, except where they are NaN.
    void replace(float* found, std::int64_t each) const {
        for (std::int64_t map = 0; map < maps; ++map) {
            const float value = at(map);
            for (std::int64_t i = map * each; i < (map + 1) * each; ++i)
                if (!std::isnan(found[i])) found[i] = value;
        }
    }
    void fill(float* to) const {
        for (std::int64_t map = 0; to != nullptr && map < maps; ++map) to[map] = at(map);
    }
};

/// Puts the calibrated values into arrays that hold the scales found.
void calibrate(const AttentionProblem& problem, const AttentionScales& given, Int8Arrays& arrays) {
    const auto of_q = [&](const Tensor& values) { return PerMap{values, problem.maps(), problem.heads}; };
    const auto of_kv = [&](const Tensor& values) {
        return PerMap{values, problem.kv_maps(), problem.kv_heads};
    };
    const std::int64_t d = problem.head_dim;
    const std::int64_t groups = (problem.k_len + kQuantizedKeyGroup - 1) / kQuantizedKeyGroup;
    of_q(given.q_scale).replace(arrays.q_scale, problem.q_len);
    of_kv(given.k_scale).replace(arrays.k_scale, problem.k_len);
    of_kv(given.v_scale).replace(arrays.v_scale, groups * d);
    of_q(given.q_offset).fill(arrays.q_offset);
    of_kv(given.k_offset).fill(arrays.k_offset);
    of_kv(given.v_offset).fill(arrays.v_offset);
    for (std::int64_t map = 0; arrays.v_offset != nullptr && map < problem.kv_maps(); ++map)
        std::fill_n(arrays.v_shift + map * d, d, -arrays.v_offset[map] * of_kv(given.v_scale).at(map));
    arrays.v_mean = nullptr;
}

/// The same on another device, where the values, which the host has, go with the launches, so that a graph
/// keeps them. Scales that are NaN stay, as NaN does between any two limits.
void calibrate_there(const AttentionProblem& problem, const AttentionScales& given, Device device,
                     const AttentionCall& call) {
    const ElementwiseKernels& kernels = elementwise_kernels(device);
    const auto set = [&](const PerMap& values, float* found, std::int64_t each) {
        for (std::int64_t map = 0; map < values.maps; ++map) {
            const float value = values.at(map);
            kernels.clamp({found + map * each, each, value, value, false, call.stream});
        }
    };
    const auto fill = [&](float* to, std::int64_t count, float value) {
        kernels.clamp({to, count, value, value, true, call.stream});
    };
    const auto fill_maps = [&](const PerMap& values, float* to) {
        for (std::int64_t map = 0; to != nullptr && map < values.maps; ++map)
            fill(to + map, 1, values.at(map));
    };
    const auto of_q = [&](const Tensor& values) { return PerMap{values, problem.maps(), problem.heads}; };
    const auto of_kv = [&](const Tensor& values) {
        return PerMap{values, problem.kv_maps(), problem.kv_heads};
    };
    const std::int64_t d = problem.head_dim;
    const std::int64_t groups = (problem.k_len + kQuantizedKeyGroup - 1) / kQuantizedKeyGroup;
    const Int8Arrays& to = call.int8;
    set(of_q(given.q_scale), to.q_scale, problem.q_len);
    set(of_kv(given.k_scale), to.k_scale, problem.k_len);
    set(of_kv(given.v_scale), to.v_scale, groups * d);
    fill_maps(of_q(given.q_offset), to.q_offset);
    fill_maps(of_kv(given.k_offset), to.k_offset);
    fill_maps(of_kv(given.v_offset), to.v_offset);
    for (std::int64_t map = 0; to.v_shift != nullptr && map < problem.kv_maps(); ++map)
        fill(to.v_shift + map * d, d, -of_kv(given.v_offset).at(map) * of_kv(given.v_scale).at(map));
}

}  // namespace

std::size_t scale_bytes(const AttentionProblem& problem, const AttentionOptions& options) {
    Int8Arrays arrays;
    return place(problem, options, nullptr, arrays);
}

void check_scales(const AttentionScales& scales, std::int64_t heads, std::int64_t kv_heads) {
    check_values("q_scale", scales.q_scale, heads, true);
    check_values("k_scale", scales.k_scale, kv_heads, true);
    check_values("v_scale", scales.v_scale, kv_heads, true);
    check_values("q_offset", scales.q_offset, heads, false);
    check_values("k_offset", scales.k_offset, kv_heads, false);
    check_values("v_offset", scales.v_offset, kv_heads, false);
}

void fill_scales(const AttentionKernel& kernel, const AttentionProblem& problem,
                 const AttentionOptions& options, const ScaleMemory& memory, AttentionCall& call) {
    const Device device = memory.device;
    place(problem, options, memory.data, call.int8);
    call.smooth_k = options.smooth_k && options.scales == nullptr;
    call.int8.on_the_way = options.scales == nullptr && call.q_tokens == 1 && call.k_tokens == 1;
    kernel.find_scales(problem, call);
    if (options.scales != nullptr && device != Device::cpu) {
        calibrate_there(problem, *options.scales, device, call);
        call.int8.v_mean = nullptr;
    } else if (options.scales != nullptr) {
        calibrate(problem, *options.scales, call.int8);
    } else {
        call.int8.v_shift = call.int8.v_mean;
    }
}

}  // namespace aerogel
