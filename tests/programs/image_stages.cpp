// What image-to-video models are told of pictures, for tests/model/test_image_stages.py:
//
//   image_stages resize PICTURE HEIGHT WIDTH bicubic|lanczos OUTPUT.png
//
//   image_stages clip PICTURE preprocessor_config.json ENCODER OUTPUT.safetensors [PICTURE]
//
//   image_stages condition VAE FRAMES HEIGHT WIDTH OUTPUT.safetensors FIRST [LAST]
#include <cstdio>
#include <exception>
#include <fstream>
#include <string>
#include <vector>

#include "aerogel/safetensors.h"
#include "model/image/clip_vision.h"
#include "model/image/frame_condition.h"
#include "model/image/image_input.h"
#include "model/image/resize.h"
#include "model/video/video_file.h"

namespace {

using aerogel::Tensor;

void resize(const std::vector<std::string>& arguments) {
    const auto filter =
        arguments.at(4) == "lanczos" ? aerogel::ResizeFilter::lanczos : aerogel::ResizeFilter::bicubic;
    const aerogel::Picture result =
        aerogel::resized(aerogel::read_picture(arguments.at(1)), std::stol(arguments.at(2)),
                         std::stol(arguments.at(3)), filter);
    std::ofstream(arguments.at(5), std::ios::binary) << aerogel::png_bytes(result);
}

void clip(const std::vector<std::string>& arguments) {
    const auto input = aerogel::ClipImageInput::read(arguments.at(2));
    const aerogel::ClipVision encoder(arguments.at(3));
    std::vector<aerogel::Picture> pictures = {aerogel::read_png(arguments.at(1))};
    for (std::size_t i = 5; i < arguments.size(); ++i) pictures.push_back(aerogel::read_png(arguments[i]));
    const Tensor pixels = input.pixels(pictures);
    aerogel::save_safetensors(arguments.at(4),
                              {{"pixels", pixels}, {"hidden_states", encoder.hidden_states(pixels)}});
}

void condition(const std::vector<std::string>& arguments) {
    const auto vae = aerogel::Vae::load(arguments.at(1));
    const std::int64_t height = std::stol(arguments.at(3)), width = std::stol(arguments.at(4));
    const auto pixels = [&](std::size_t index) {
        return aerogel::pixels_of(aerogel::read_png(arguments.at(index)), height, width);
    };
    const Tensor first = pixels(6);
    const Tensor last = arguments.size() > 7 ? pixels(7) : Tensor();
    aerogel::GivenFrames given{first};
    if (last.defined()) given.last = last;
    aerogel::save_safetensors(
        arguments.at(5), {{"condition", aerogel::frame_condition(*vae, given, std::stol(arguments.at(2)))}});
}

}  // namespace

int main(int argc, char** argv) {
    try {
        const std::vector<std::string> arguments(argv + 1, argv + argc);
        const std::string& stage = arguments.at(0);
        if (stage == "resize") {
            resize(arguments);
        } else if (stage == "clip") {
            clip(arguments);
        } else {
            condition(arguments);
        }
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
