// Rounding to the model's type.
#include "quant/algorithms/model_dtype.h"

#include "aerogel/number_types.h"

namespace aerogel {

float round_to(DType dtype, float x) {
    if (dtype == DType::bf16) return to_float(to_bfloat16(x));
    if (dtype == DType::f16) return to_float(to_float16(x));
    return x;
}

bool is_model_dtype(DType dtype) {
    return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16;
}

}  // namespace aerogel
