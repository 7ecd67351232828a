// One layer of a quantized pair, for tests/quant: quantized_linear_run DESCRIPTION LAYER X.safetensors
// OUT.safetensors [STEP FIRST_STATIC_STEP [wide]]. X holds "x" f32 or bf16; OUT gets "y" of the same type.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <limits>

#include "aerogel/error.h"
#include "aerogel/safetensors.h"
#include "aerogel/timestep.h"
#include "quant/load.h"

namespace {

using namespace aerogel;

void run(int argc, char** argv) {
    if (argc != 5 && argc != 7 && argc != 8) {
        throw InvalidArgument(
            "usage: quantized_linear_run DESCRIPTION LAYER X OUT [STEP FIRST_STATIC_STEP [wide]]");
    }
    const QuantizedPair pair = QuantizedPair::open(argv[1]);
    for (const QuantizedLayer& layer : pair.layers()) {
        if (layer.name != argv[2]) continue;
        const QuantizedLinear linear(pair.read(layer));
        const Tensor x = SafetensorsFile::open(argv[3]).tensor("x").clone();
        Shape shape = x.shape();
        shape.back() = linear.out_features();
        Tensor y = Tensor(DType::f32, shape);
        for (std::int64_t i = 0; i < y.count(); ++i) {
            y.mutable_as<float>()[i] = std::numeric_limits<float>::quiet_NaN();
        }
        y = y.to(x.dtype());
        StepContext step;
        if (argc >= 7) {
            step = TimestepPolicyConfig::static_from(std::atoi(argv[6])).context(std::atoi(argv[5]));
        }
        step.wide_activations = argc == 8;
        linear.forward(x, y, step);
        save_safetensors(argv[4], {{"y", y}});
        return;
    }
    throw InvalidArgument(std::string("no quantized layer ") + argv[2]);
}

}  // namespace

int main(int argc, char** argv) {
    try {
        run(argc, argv);
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
