// One forward pass of a model folder, for tests/model: transformer_forward MODEL INPUTS.safetensors
// OUTPUT.safetensors. INPUTS holds hidden_states, timestep, encoder_hidden_states and perhaps
// encoder_hidden_states_image, guidance and condition; OUTPUT gets block_0 ... and output. LoRA files with
// their weights may follow. With MODEL alone it prints the bytes of the weights and the names of the Linears.
#include <cstdio>
#include <cstring>
#include <exception>
#include <map>
#include <string>

#include "aerogel/error.h"
#include "aerogel/safetensors.h"
#include "aerogel/transformer.h"

namespace {

using aerogel::Tensor;
using aerogel::TensorView;

Tensor copy_of(const TensorView& view) {
    Tensor copy(view.dtype, view.shape);
    std::memcpy(copy.mutable_data(), view.data, copy.bytes());
    return copy;
}

void run(const aerogel::Transformer& model, const char* inputs, const char* output) {
    const auto file = aerogel::SafetensorsFile::open(inputs);
    aerogel::TransformerInput input;
    input.hidden_states = file.tensor("hidden_states");
    input.timestep = file.tensor("timestep");
    input.encoder_hidden_states = file.tensor("encoder_hidden_states");
    if (file.contains("encoder_hidden_states_image")) {
        input.encoder_hidden_states_image = file.tensor("encoder_hidden_states_image");
    }
    if (file.contains("condition")) input.condition = file.tensor("condition");
    if (file.contains("guidance")) input.guidance = file.tensor("guidance");
    std::map<std::string, Tensor> results;
    aerogel::TransformerStep step;
    step.on_block_output = [&](int block, const TensorView& hidden) {
        results["block_" + std::to_string(block)] = copy_of(hidden);
    };
    results["output"] = model.forward(input, step);
    aerogel::save_safetensors(output, results);
}

}  // namespace

int main(int argc, char** argv) {
    try {
        if (argc != 2 && (argc < 4 || argc % 2 != 0))
            throw aerogel::InvalidArgument(
                "usage: transformer_forward MODEL [INPUTS OUTPUT [LORA WEIGHT] ...]");
        aerogel::LoadOptions options;
        for (int i = 4; i < argc; i += 2) options.loras.push_back({argv[i], std::stod(argv[i + 1])});
        const auto model = aerogel::Transformer::load(argv[1], options);
        if (argc > 2) {
            run(*model, argv[2], argv[3]);
            return 0;
        }
        std::printf("%zu\n", model->weight_bytes());
        for (const auto& name : model->linear_names()) std::printf("%s\n", name.c_str());
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
