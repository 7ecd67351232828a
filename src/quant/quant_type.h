// Types of the file format taken apart: a scheme, and what surrounds its product.
#pragma once

#include <string>
#include <string_view>

namespace aerogel {

/// "W8A8_SVD_DYNAMIC" is W8A8_DYNAMIC with a low-rank branch, as msModelSlim names it ("_SVD" stands in front
/// of a final "_DYNAMIC", else at the end). "_ROTATED" behind it is ours: the weight is stored rotated, and a
/// reader that does not know the name must not take it for a plain one.
struct QuantType {
    std::string scheme;  ///< upper case
    bool low_rank = false;
    bool rotated = false;
};

QuantType split_quant_type(std::string_view name);
std::string join_quant_type(const QuantType& type);

}  // namespace aerogel
