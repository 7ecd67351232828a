// The formats of attention's q, k and v, and every name they go by: in options, files and timestep policies.
// layer: formats
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace aerogel {

/// none: float32 or bfloat16, as q, k and v come. int8: both products in exact integers, weights of the
/// softmax in 8 bits. The others round q, k and v to what the format holds and compute in float32: E4M3 with
/// a float scale per block of tokens (fp8), or the OCP Microscaling formats in blocks of 32, along head_dim
/// for q and k, along tokens for v. mix rounds q and k to int8 per block of tokens and v to E4M3 per channel.
/// int8_qk rounds q and k to the integers of int8 and leaves v and the weights as they are (SageAttention,
/// arXiv 2410.02367).
enum class AttentionFormat : std::uint8_t { none, int8, fp8, mxfp8, mxfp4, mix, int8_qk };

/// What a format is called where it is chosen; an empty name: it cannot be chosen there.
struct AttentionFormatRow {
    AttentionFormat format;
    std::string_view name;                         ///< in options and in Python
    std::string_view file_type;                    ///< of files and --fa, scales found in the data
    std::array<std::string_view, 3> static_types;  ///< the same with calibrated scales; the first is written
    std::string_view strategy;                     ///< of timestep policies, target "fa"
    bool rotates = false;                          ///< files of file_type hold q_rot and k_rot
    bool needs_rotation = false;                   ///< and must
};

/// All of them, in the order of the enum.
inline constexpr std::array<AttentionFormatRow, 7> kAttentionFormats = {{
    {AttentionFormat::none, "none", "", {}, "FLOAT"},
    {AttentionFormat::int8, "int8", "INT8_DYNAMIC", {"FAQUANT", "FAKQUANT", "INT8"}, ""},
    {AttentionFormat::fp8, "fp8", "FP8_DYNAMIC", {}, "FP8", true, true},
    {AttentionFormat::mxfp8, "mxfp8", "MXFP8_DYNAMIC", {}, "", true},
    {AttentionFormat::mxfp4, "mxfp4", "MXFP4_DYNAMIC", {}, "MXFP4", true},
    {AttentionFormat::mix, "mix", "", {}, ""},
    {AttentionFormat::int8_qk, "int8_qk", "", {}, ""},
}};

/// Throws InvalidArgument: there is no format with this number.
[[noreturn]] void no_attention_format(AttentionFormat format);

constexpr const AttentionFormatRow& attention_format_row(AttentionFormat format) {
    const auto number = static_cast<std::size_t>(format);
    if (number >= kAttentionFormats.size()) no_attention_format(format);
    return kAttentionFormats[number];
}
constexpr std::string_view to_string(AttentionFormat format) {
    return attention_format_row(format).name;
}

/// "int8" ...; InvalidArgument listing the names otherwise. `op` starts the message.
AttentionFormat attention_format_from(std::string_view op, std::string_view name);

}  // namespace aerogel
