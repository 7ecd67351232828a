// Endings of type names.
#include "quant/quant_type.h"

#include "quant/schemes.h"

namespace aerogel {
namespace {

constexpr std::string_view kRotated = "_ROTATED", kLowRank = "_SVD", kDynamic = "_DYNAMIC";

// Takes `ending` off `text` if it is there.
bool cut(std::string& text, std::string_view ending) {
    if (!text.ends_with(ending)) return false;
    text.resize(text.size() - ending.size());
    return true;
}

}  // namespace

QuantType split_quant_type(std::string_view name) {
    QuantType type;
    type.scheme = upper_case(name);
    type.rotated = cut(type.scheme, kRotated);
    const bool dynamic = cut(type.scheme, kDynamic);
    type.low_rank = cut(type.scheme, kLowRank);
    if (dynamic) type.scheme += kDynamic;
    return type;
}

std::string join_quant_type(const QuantType& type) {
    std::string name = type.scheme;
    if (type.low_rank) {
        const bool dynamic = cut(name, kDynamic);
        name += kLowRank;
        if (dynamic) name += kDynamic;
    }
    if (type.rotated) name += kRotated;
    return name;
}

}  // namespace aerogel
