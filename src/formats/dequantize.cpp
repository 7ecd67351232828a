// Any quantized matrix back to float32, through its format's decoder.
#include "aerogel/error.h"
#include "base/thread_pool.h"
#include "formats/format.h"

namespace aerogel {

Tensor dequantize(const QuantizedTensor& weight) {
    const FormatRow& row = format_row(weight.format);
    if (const std::string problem = row.problem(weight); !problem.empty()) {
        throw InvalidArgument("[dequantize] " + std::string(row.name) + ": " + problem);
    }
    Tensor out(DType::f32, {weight.rows, weight.columns});
    auto* values = out.as<float>();
    parallel_for(weight.rows,
                 [&](std::int64_t i, int) { row.decode_row(weight, i, values + i * weight.columns); });
    return out;
}

}  // namespace aerogel
