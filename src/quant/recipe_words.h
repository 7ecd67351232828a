// The words of recipes for schemes and attention types.
#pragma once

#include <array>
#include <string_view>

namespace aerogel {

/// Data types and scopes of both sides of a linear_quant entry, and the scheme that they mean.
struct RecipeScheme {
    std::string_view act_dtype, act_scope, weight_dtype, weight_scope;
    std::string_view scheme;
};

inline constexpr std::array<RecipeScheme, 14> kRecipeSchemes = {{
    {"int8", "per_tensor", "int8", "per_channel", "W8A8"},
    {"int8", "per_token", "int8", "per_channel", "W8A8_DYNAMIC"},
    {"int8", "per_token", "int4", "per_channel", "W4A8"},
    {"int8", "per_token", "int4", "per_group", "W4A8"},
    {"int4", "per_token", "int4", "per_channel", "W4A4_DYNAMIC"},
    {"fp8_e4m3", "per_token", "fp8_e4m3", "per_channel", "WFP8AFP8_DYNAMIC"},
    {"mxfp8", "per_block", "mxfp8", "per_block", "W8A8_MXFP8"},
    {"mxfp8", "per_block", "mxfp4", "per_block", "W4A8_MXFP"},
    {"mxfp4", "per_block", "mxfp4", "per_block", "W4A4_MXFP4"},
    {"mxfp4", "dual_scale", "mxfp4", "dual_scale", "W4A4_MXFP4_DUALSCALE"},
    {"float", "", "int8", "per_channel", "W8A16"},
    {"float", "", "int8", "per_group", "W8A16"},
    {"float", "", "int4", "per_channel", "W4A16"},
    {"float", "", "int4", "per_group", "W4A16"},
}};

/// Data type and scope of an fa3_quant entry, and the attention type that they mean.
struct RecipeAttentionForm {
    std::string_view dtype, scope, type;
};

inline constexpr std::array<RecipeAttentionForm, 5> kRecipeAttentions = {{
    {"fp8_e4m3", "per_token", "FP8_DYNAMIC"},
    {"mxfp8", "per_block", "MXFP8_DYNAMIC"},
    {"mxfp4", "per_block", "MXFP4_DYNAMIC"},
    {"int8", "per_token", "INT8_DYNAMIC"},
    {"int8", "per_head", "FAQUANT"},
}};

}  // namespace aerogel
