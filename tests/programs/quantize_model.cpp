// quantize(model, description), for tests/quant: quantize_model MODEL DESCRIPTION [RANK [INPUTS OUTPUT]]
// prints "name scheme why" per layer and the bytes before and after, and on an error whether the model still
// is float. With INPUTS and OUTPUT it runs one forward pass in step 0.
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "aerogel/quantize.h"
#include "aerogel/safetensors.h"

namespace {

using namespace aerogel;

void print_report(const QuantizeReport& report) {
    for (const auto& layer : report.layers) {
        std::printf("%s %s %s\n", layer.name.c_str(), layer.scheme.c_str(), layer.why.c_str());
    }
    std::printf("bytes %zu %zu\n", report.bytes_before, report.bytes_after);
}

void forward(const Transformer& model, const char* inputs, const char* output) {
    const auto file = SafetensorsFile::open(inputs);
    TransformerInput input;
    input.hidden_states = file.tensor("hidden_states");
    input.timestep = file.tensor("timestep");
    input.encoder_hidden_states = file.tensor("encoder_hidden_states");
    TransformerStep step;
    step.context.timestep_index = 0;
    save_safetensors(output, {{"output", model.forward(input, step)}});
}

int run(int argc, char** argv) {
    const auto model = Transformer::load(argv[1]);
    try {
        print_report(quantize(*model, argv[2], {argc > 3 ? std::atoi(argv[3]) : -1}));
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        std::size_t quantized = 0;
        for (const auto& name : model->linear_names()) {
            if (model->linear(name).scheme() != "FLOAT") ++quantized;
        }
        std::printf("quantized %zu\n", quantized);
        return 1;
    }
    if (argc == 6) forward(*model, argv[4], argv[5]);
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return run(argc, argv);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
