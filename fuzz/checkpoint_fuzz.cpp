// Any bytes as the quantized checkpoint of another program, a configuration up to the first end of a line and
// then the tensors: either a refusal, or layers whose arrays fit each other.
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
    fuzz_file("quantization_config.json", {data, line});
    try {
        const QuantizedPair pair =
            QuantizedPair::open(fuzz_file("checkpoint.safetensors", {end + 1, size - line - 1}));
        for (const QuantizedLayer& layer : pair.layers()) {
            try {
                check_layer(pair.read(layer));
            } catch (const Error&) {
                continue;  // the others are read all the same
            }
        }
    } catch (const Error&) {
        return 0;
    }
    return 0;
}
