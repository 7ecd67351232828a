// Any bytes as a quantized pair, the description up to the first end of a line and then the weights: either a
// refusal, or layers whose arrays fit each other.
#include <algorithm>

#include "aerogel/error.h"
#include "quant/layer_arrays.h"
#include "quant/load.h"
#include "temporary_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace aerogel;
    const std::uint8_t* end = std::find(data, data + size, '\n');
    const auto line = static_cast<std::size_t>(end - data);
    if (line == size) return 0;
    fuzz_file("quant_model_weight_w8a8_dynamic.safetensors", {end + 1, size - line - 1});
    try {
        const QuantizedPair pair =
            QuantizedPair::open(fuzz_file("quant_model_description_w8a8_dynamic.json", {data, line}));
        for (const QuantizedLayer& layer : pair.layers()) {
            try {
                check_layer(pair.read(layer));
            } catch (const Error&) {
                continue;  // the others are read all the same
            }
        }
        for (const StoredAttention& attention : pair.attentions()) pair.read(attention);
    } catch (const Error&) {
        return 0;
    }
    return 0;
}
