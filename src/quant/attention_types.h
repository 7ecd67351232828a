// Types of quantized attention in the file format, and what their files hold.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "aerogel/attention.h"

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

}  // namespace aerogel
