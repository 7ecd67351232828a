// Pipeline::generate for tests/model/test_pipeline.py: pipeline_generate MODEL OUTPUT.safetensors KEY=VALUE
// ... Keys: prompt, negative, steps, frames, height, width, guidance, shift, sampler, seed, embeds (a
// .safetensors with prompt_embeds and perhaps negative_prompt_embeds), first_frame (a .safetensors),
// image_first (0 or 1), stagger, decode (0: latents), keep,
// guidance_2, image, last_image. OUTPUT gets video and the noise it started from.
#include <cstdio>
#include <exception>
#include <map>
#include <span>
#include <string>

#include "aerogel/pipeline.h"
#include "aerogel/safetensors.h"
#include "base/random.h"

namespace {

using aerogel::GenerateOptions;
using aerogel::Tensor;

void read_embeddings(const std::string& path, GenerateOptions& options) {
    const auto file = aerogel::SafetensorsFile::open(path);
    options.prompt_embeds = file.tensor("prompt_embeds");
    if (file.contains("negative_prompt_embeds")) {
        options.negative_prompt_embeds = file.tensor("negative_prompt_embeds");
    }
}

void set(GenerateOptions& options, const std::string& key, const std::string& value) {
    if (key == "prompt") options.prompt = value;
    if (key == "negative") options.negative_prompt = value;
    if (key == "steps") options.sampling.steps = std::stoi(value);
    if (key == "frames") options.sampling.frames = std::stoi(value);
    if (key == "height") options.sampling.height = std::stoi(value);
    if (key == "width") options.sampling.width = std::stoi(value);
    if (key == "guidance") options.sampling.guidance = std::stod(value);
    if (key == "shift") options.sampling.shift = std::stod(value);
    if (key == "sampler") options.sampling.sampler = aerogel::sampler_kind_from(value);
    if (key == "seed") options.sampling.seed = std::stoull(value);
    if (key == "embeds") read_embeddings(value, options);
    if (key == "first_frame")
        options.first_frame = aerogel::SafetensorsFile::open(value).tensor("first_frame");
    if (key == "image_first") options.sampling.image_first = value == "1";
    if (key == "guidance_2") options.sampling.guidance_2 = std::stod(value);
    if (key == "image") options.image = value;
    if (key == "last_image") options.last_image = value;
    if (key == "decode") options.decode = value == "1";
    if (key == "keep") options.keep = value == "1";
    if (key == "stagger") options.sampling.stagger = std::stod(value);
}

void run(int argc, char** argv) {
    GenerateOptions options;
    for (int i = 3; i < argc; ++i) {
        const std::string argument = argv[i];
        const std::size_t equals = argument.find('=');
        if (equals == std::string::npos) throw aerogel::InvalidArgument("not KEY=VALUE: " + argument);
        set(options, argument.substr(0, equals), argument.substr(equals + 1));
    }
    const auto result = aerogel::Pipeline::load(argv[1]).generate(options);
    Tensor noise(aerogel::DType::f32, result.video.shape());
    aerogel::fill_normal(std::span(noise.mutable_as<float>(), static_cast<std::size_t>(noise.count())),
                         options.sampling.seed);
    aerogel::save_safetensors(argv[2], {{"video", result.video}, {"noise", noise}});
}

}  // namespace

int main(int argc, char** argv) {
    try {
        if (argc < 3) throw aerogel::InvalidArgument("usage: pipeline_generate MODEL OUTPUT KEY=VALUE ...");
        run(argc, argv);
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
