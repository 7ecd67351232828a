// Shapes against those that a family wants.
#include "model/input_shapes.h"

#include <fmt/format.h>

#include <string>

#include "aerogel/error.h"

namespace aerogel {

void check_shape(std::string_view family, const char* name, const Tensor& tensor, const Shape& wanted) {
    bool fits = tensor.defined() && tensor.dtype() == DType::f32 && tensor.shape().size() == wanted.size();
    for (std::size_t i = 0; fits && i < wanted.size(); ++i) {
        fits = wanted[i] < 0 || tensor.dim(i) == wanted[i];
    }
    if (fits) return;
    std::string text;
    for (const std::int64_t size : wanted) {
        text += (text.empty() ? "" : ",") + (size < 0 ? std::string("*") : std::to_string(size));
    }
    throw InvalidArgument(fmt::format("[{}] {} must be f32[{}], got {}", family, name, text,
                                      tensor.defined() ? tensor.describe() : "nothing"));
}

}  // namespace aerogel
