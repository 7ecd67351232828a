// A C++ product without Python, from a prompt to a picture or a video: load, quantize on the way in,
// generate, save.
#include <exception>
#include <iostream>
#include <string>

#include "aerogel/pipeline.h"
#include "aerogel/video.h"

int main(int argc, char** argv) {
    if (argc < 4) {
        std::cerr << "usage: make_video MODEL_FOLDER PROMPT OUTPUT(.png .jpg .webp .mp4 .gif) [STEPS]\n";
        return 1;
    }
    try {
        aerogel::LoadOptions load;
        load.online.emplace().quant_type = "W8A8_DYNAMIC";
        const auto pipeline = aerogel::Pipeline::load(argv[1], load);

        aerogel::GenerateOptions options;
        options.prompt = argv[2];
        if (argc > 4) options.sampling.steps = std::stoi(argv[4]);
        options.keep = aerogel::Keep::nothing;  // one picture: each component goes after its turn
        options.progress = [](int step, int steps, double seconds) {
            std::cout << "step " << step << "/" << steps << ": " << seconds << " s\n";
            return true;  // false stops
        };
        const aerogel::GenerateResult result = pipeline.generate(options);
        for (const auto& [stage, seconds] : result.stages) std::cout << stage << ": " << seconds << " s\n";
        aerogel::save_video(argv[3], result.video, {.frames_per_second = pipeline.frames_per_second()});
    } catch (const std::exception& error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
    return 0;
}
