// Quantized attention of a model: its types in the file format and what their files hold, the ranges that
// calibration measures for it, and how it runs in a step.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "aerogel/attention.h"
#include "aerogel/timestep.h"
#include "quant/algorithms/minmax.h"

namespace aerogel {

/// A type of kAttentionFormats, by the name it was asked for. Any case; nullopt for types that nothing here
/// computes.
struct AttentionType {
    std::string_view name;
    AttentionFormat format = AttentionFormat::int8;
    bool calibrated = false;
    bool rotates = false;         ///< files of it hold q_rot and k_rot
    bool needs_rotation = false;  ///< and must
};
std::optional<AttentionType> find_attention_type(std::string_view name);
/// The same; InvalidArgument listing what is there otherwise. `op` starts the message.
AttentionType attention_type(std::string_view op, std::string_view name);

/// "INT8_DYNAMIC, FP8_DYNAMIC, ...": those that need no calibration.
std::string dynamic_attention_types();

/// bf16 [head_dim, head_dim]: the seeded Hadamard rotation of the exporters, diag(signs) H / sqrt(block),
/// with block the largest power of two that divides head_dim.
Tensor attention_rotation(std::int64_t head_dim);

/// What a type without calibration needs to run.
AttentionQuantization dynamic_attention(const AttentionType& type, std::int64_t head_dim);

/// "q_rot", "fa_q.scale" ... -> tensor: what a file holds of it. Scales f32 [heads,1], offsets zeros.
std::map<std::string, Tensor> attention_tensors(const AttentionQuantization& attention);

/// The shortest interval that holds int(ratio * n) of the n values (after msModelSlim's fa3). Takes the
/// values by copy, as it sorts them. InvalidArgument when there are none or ratio is not in (0, 1].
InputRange shortest_range(std::vector<float> values, double ratio);

/// Calibration of int8 attention. Over all forwards, per attention and head: the union of the ranges that
/// hold .9999 of the values of q and k, and all of v.
class AttentionRanges {
  public:
    /// q, k, v f32 [batch, tokens, heads, head_dim], contiguous. InvalidArgument when a value is not finite.
    void observe(const std::string& attention, const TensorView& q, const TensorView& k, const TensorView& v);
    bool contains(const std::string& attention) const { return ranges_.contains(attention); }
    /// Scales max(|min|, |max|) / 127 f32 [heads]; no offsets. InvalidArgument when it never ran.
    AttentionScales scales(const std::string& attention) const;

  private:
    using PerHead = std::vector<InputRange>;
    std::map<std::string, std::array<PerHead, 3>> ranges_;
};

/// The options of attention() for this step (-1: unknown): format none without a quantization, its format
/// without a policy. They point into `quantization`.
AttentionOptions attention_options(const std::optional<AttentionQuantization>& quantization,
                                   const TimestepPolicyConfig* policy, int timestep_index);

}  // namespace aerogel
