// Vectors for what the kernels find, and calibrated scales repeated for every token.
#include "ops/attention_scales.h"

#include <cmath>

#include "aerogel/error.h"

namespace aerogel {
namespace {

void check_scales(const char* name, const Tensor& tensor, std::int64_t heads, bool is_scale) {
    const std::string want =
        std::string("[quantized_attention] ") + name + " must be f32[" + std::to_string(heads) + ",1], got ";
    if (tensor.dtype() != DType::f32 || tensor.count() != heads || tensor.dim(0) != heads)
        throw InvalidArgument(want + tensor.describe());
    for (std::int64_t i = 0; i < heads; ++i) {
        const float x = tensor.as<float>()[i];
        const bool right =
            is_scale ? x > 0.0F && std::isfinite(x) : x >= -128.0F && x <= 127.0F && std::nearbyint(x) == x;
        if (!right)
            throw InvalidArgument(std::string("[quantized_attention] ") + name + " must be " +
                                  (is_scale ? "positive" : "a whole number in -128..127") + ", got " +
                                  std::to_string(x) + " for head " + std::to_string(i));
    }
}

/// One value per map; undefined = none.
std::vector<float> per_map(const char* name, const Tensor& tensor, const AttentionProblem& problem,
                           bool is_scale) {
    if (!is_scale && !tensor.defined()) return {};
    if (!tensor.defined())
        throw InvalidArgument(std::string("[quantized_attention] ") + name + " is missing");
    check_scales(name, tensor, problem.heads, is_scale);
    std::vector<float> result;
    for (std::int64_t map = 0; map < problem.batch * problem.heads; ++map)
        result.push_back(tensor.as<float>()[map % problem.heads]);
    return result;
}

/// Replaces the scales found by the map's own, except NaN.
void overwrite(std::vector<float>& found, const std::vector<float>& per_map) {
    const std::size_t each = per_map.empty() ? 0 : found.size() / per_map.size();
    for (std::size_t i = 0; i < found.size(); ++i)
        if (!std::isnan(found[i])) found[i] = per_map[i / each];
}

const float* pointer(const std::vector<float>& values) {
    return values.empty() ? nullptr : values.data();
}

}  // namespace

void Int8Scales::fill(QuantizedAttentionArgs& args) const {
    args.q_scale = pointer(q_scale);
    args.k_scale = pointer(k_scale);
    args.v_scale = pointer(v_scale);
    args.q_offset = pointer(q_offset);
    args.k_offset = pointer(k_offset);
    args.v_offset = pointer(v_offset);
    args.k_mean = pointer(k_mean);
    args.v_mean = pointer(v_mean);
    args.v_shift = pointer(v_shift);
    args.search = &search;
}

namespace {

Int8Scales found_scales(const QuantizedAttentionKernel& kernel, const AttentionProblem& problem,
                        const QuantizedAttentionArgs& args, const Int8Blocks& blocks, bool on_the_way) {
    const auto maps = static_cast<std::size_t>(problem.batch * problem.heads);
    const auto d = static_cast<std::size_t>(problem.head_dim);
    const std::int64_t groups = (problem.k_len + kQuantizedKeyGroup - 1) / kQuantizedKeyGroup;
    Int8Scales scales;
    scales.q_scale.resize(maps * static_cast<std::size_t>(problem.q_len));
    scales.k_scale.resize(maps * static_cast<std::size_t>(problem.k_len));
    scales.v_scale.resize(maps * static_cast<std::size_t>(groups) * d);
    if (blocks.smooth_k) scales.k_mean.resize(maps * d);
    scales.v_mean.resize(maps * d);
    std::vector<double> sums(maps * static_cast<std::size_t>(mean_portions(problem.k_len)) * d);
    scales.search = {
        blocks.q_tokens,       blocks.k_tokens,       scales.q_scale.data(),
        scales.k_scale.data(), scales.v_scale.data(), blocks.smooth_k ? scales.k_mean.data() : nullptr,
        scales.v_mean.data(),  sums.data(),           on_the_way};
    kernel.find_scales(problem, args, scales.search);
    scales.search.sums = nullptr;
    scales.v_shift = scales.v_mean;
    return scales;
}

}  // namespace

Int8Scales dynamic_scales(const QuantizedAttentionKernel& kernel, const AttentionProblem& problem,
                          const QuantizedAttentionArgs& args, const Int8Blocks& blocks) {
    return found_scales(kernel, problem, args, blocks, blocks.q_tokens == 1 && blocks.k_tokens == 1);
}

Int8Scales static_scales(const QuantizedAttentionKernel& kernel, const AttentionProblem& problem,
                         const QuantizedAttentionArgs& args, const AttentionScales& given) {
    const std::vector<float> q = per_map("q_scale", given.q_scale, problem, true);
    const std::vector<float> k = per_map("k_scale", given.k_scale, problem, true);
    const std::vector<float> v = per_map("v_scale", given.v_scale, problem, true);
    Int8Scales scales = found_scales(kernel, problem, args, {1, 1, false}, false);
    overwrite(scales.q_scale, q);
    overwrite(scales.k_scale, k);
    overwrite(scales.v_scale, v);
    scales.v_mean.clear();
    scales.v_shift.clear();
    scales.q_offset = per_map("q_offset", given.q_offset, problem, false);
    scales.k_offset = per_map("k_offset", given.k_offset, problem, false);
    scales.v_offset = per_map("v_offset", given.v_offset, problem, false);
    for (std::size_t map = 0; map < scales.v_offset.size(); ++map)
        scales.v_shift.insert(scales.v_shift.end(), static_cast<std::size_t>(problem.head_dim),
                              -scales.v_offset[map] * v[map]);
    return scales;
}

}  // namespace aerogel
