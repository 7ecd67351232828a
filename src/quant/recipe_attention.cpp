// Data type and scope of q, k and v name the type of attention.
#include "quant/recipe_attention.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

namespace aerogel {
namespace {

struct AttentionForm {
    std::string_view dtype, scope, type;
};

constexpr std::array<AttentionForm, 5> kForms = {{
    {"fp8_e4m3", "per_token", "FP8_DYNAMIC"},
    {"mxfp8", "per_block", "MXFP8_DYNAMIC"},
    {"mxfp4", "per_block", "MXFP4_DYNAMIC"},
    {"int8", "per_token", "INT8_DYNAMIC"},
    {"int8", "per_head", "FAQUANT"},
}};

std::string type_of(const RecipeNode& qconfig) {
    qconfig.check_keys({"scope", "dtype", "symmetric", "method", "ext"});
    const std::string dtype = qconfig.at("dtype").text(), scope = qconfig.at("scope").text();
    if (qconfig.has("symmetric") && !qconfig.at("symmetric").flag()) {
        qconfig.at("symmetric").refuse("q, k and v are quantized without offsets: set True");
    }
    if (qconfig.has("method") && qconfig.at("method").text() != "minmax") {
        qconfig.at("method").refuse("for attention there is: minmax");
    }
    std::vector<std::string> known;
    for (const AttentionForm& form : kForms) {
        if (form.dtype == dtype && form.scope == scope) return std::string(form.type);
        known.push_back(fmt::format("{} {}", form.dtype, form.scope));
    }
    qconfig.refuse(
        fmt::format("attention in {} {} is not there; there are: {}", dtype, scope, fmt::join(known, ", ")));
}

}  // namespace

std::string read_fa3_quant(const RecipeNode& entry) {
    if (entry.has("qconfig") && entry.has("details")) {
        entry.fail("has both qconfig and details: give one");
    }
    if (entry.has("qconfig")) return type_of(entry.at("qconfig"));
    if (!entry.has("details")) return "FAQUANT";  // int8 with a scale per head
    const RecipeNode details = entry.at("details");
    details.check_keys({"fa_q", "fa_k", "fa_v"});
    const std::string type = type_of(details.at("fa_q"));
    if (type_of(details.at("fa_k")) != type || type_of(details.at("fa_v")) != type) {
        details.refuse("q, k and v of different types are not there: use one qconfig");
    }
    return type;
}

void check_online_quarot(const RecipeNode& entry) {
    if (entry.has("block_size") && entry.at("block_size").integer() != -1) {
        entry.at("block_size").refuse("must be -1: whole heads are rotated");
    }
}

}  // namespace aerogel
