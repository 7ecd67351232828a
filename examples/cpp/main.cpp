// A C++ product that makes videos without Python: load, quantize, go sparse, generate, save.
#include <exception>
#include <iostream>
#include <string>

#include "aerogel/pipeline.h"
#include "aerogel/quantize.h"
#include "aerogel/safetensors.h"

int main(int argc, char** argv) {
    if (argc < 4) {
        std::cerr << "usage: make_video MODEL_FOLDER QUANT_DESCRIPTION.json CAPTION [STEPS]\n";
        return 1;
    }
    try {
        auto pipeline = aerogel::Pipeline::load(argv[1]);
        const auto report = aerogel::quantize(pipeline.transformer(), argv[2]);
        std::cout << report.bytes_before << " -> " << report.bytes_after << " bytes of weights\n";

        aerogel::GenerateOptions options;
        options.prompt = argv[3];
        if (argc > 4) options.sampling.steps = std::stoi(argv[4]);
        options.sparse.emplace();
        options.sparse->pattern.type = "rf_v2";
        options.sparse->pattern.sparsity = 0.8;
        options.progress = [](int step, int steps, double seconds) {
            std::cout << "step " << step << "/" << steps << ": " << seconds << " s\n";
            return true;
        };
        aerogel::save_safetensors("video.safetensors", {{"video", pipeline.generate(options).video}});
        std::cout << "wrote video.safetensors\n";
    } catch (const std::exception& error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
    return 0;
}
