// Passes of one model with a cache of steps, for tests/model: cached_forward MODEL INPUTS.safetensors
// OUTPUT.safetensors KIND THRESHOLD. INPUTS holds hidden_states [passes, batch, ...], timestep [passes,
// batch] and encoder_hidden_states; OUTPUT gets output [passes, ...], skipped and change [passes] (-1 where
// there is none).
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "aerogel/error.h"
#include "aerogel/safetensors.h"
#include "aerogel/transformer.h"

namespace {

using namespace aerogel;

Tensor pass_of(const Tensor& all, std::int64_t pass) {
    const Shape shape(all.shape().begin() + 1, all.shape().end());
    const std::int64_t count = element_count(shape);
    const float* from = all.as<float>() + pass * count;
    return Tensor::of(std::vector<float>(from, from + count), shape);
}

void run(const Transformer& model, char** argv) {
    const auto file = SafetensorsFile::open(argv[2]);
    const Tensor samples = file.tensor("hidden_states"), times = file.tensor("timestep");
    StepCache cache({step_cache_kind_from(argv[4]), std::stod(argv[5])});
    std::vector<float> outputs, skipped, change;
    for (std::int64_t pass = 0; pass < samples.dim(0); ++pass) {
        TransformerInput input;
        input.hidden_states = pass_of(samples, pass);
        input.timestep = pass_of(times, pass);
        input.encoder_hidden_states = file.tensor("encoder_hidden_states");
        TransformerStep step;
        step.cache = &cache;
        const std::vector<float> output = model.forward(input, step).values();
        outputs.insert(outputs.end(), output.begin(), output.end());
        skipped.push_back(cache.skipped() ? 1.0F : 0.0F);
        change.push_back(static_cast<float>(cache.change().value_or(-1.0)));
    }
    const auto passes = samples.dim(0), each = static_cast<std::int64_t>(outputs.size()) / passes;
    save_safetensors(argv[3], {{"output", Tensor::of(outputs, {passes, each})},
                               {"skipped", Tensor::of(skipped, {passes})},
                               {"change", Tensor::of(change, {passes})}});
}

}  // namespace

int main(int argc, char** argv) {
    try {
        if (argc != 6) throw InvalidArgument("usage: cached_forward MODEL INPUTS OUTPUT KIND THRESHOLD");
        run(*Transformer::load(argv[1]), argv);
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
