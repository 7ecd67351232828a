// Builds two float layers and a quantized weight, so that AEROGEL_LOG=dispatch has something to tell.
#include <cstdio>
#include <exception>

#include "aerogel/linear.h"
#include "ops/linear.h"

int main() {
    try {
        using namespace aerogel;
        const Tensor weight = Tensor::zeros(DType::f32, {8, 16});
        const FloatLinear first(weight, Tensor());
        const FloatLinear second(weight, Tensor());
        QuantizedTensor quantized;
        quantized.format = Format::int8;
        quantized.rows = 8;
        quantized.columns = 16;
        quantized.data = Tensor::zeros(DType::i8, {8, 16});
        quantized.scale = Tensor::zeros(DType::f32, {8, 1});
        const PackedLinear packed(quantized, Activation::per_token);
        std::printf("%s\n", packed.kernel_name().data());
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
