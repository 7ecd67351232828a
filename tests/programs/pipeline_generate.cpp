// Pipeline::generate for tests/model/test_pipeline.py: pipeline_generate MODEL OUTPUT.safetensors KEY=VALUE
// ... Keys: prompt, negative, steps, frames, height, width, guidance, shift, sampler, seed, embeds (a
// .safetensors with prompt_embeds and perhaps negative_prompt_embeds), first_frame (a .safetensors),
// image_first (0 or 1), stagger, decode (0: latents), keep (1, 0 or host), guidance_2, image, last_image;
// device (cuda, or hidden: memory that the host must not touch), scheme (of the transformer), text_scheme.
// OUTPUT gets video and the noise it started from, and with a device and a scheme `differing`: f32 [2],
// elements of what quantized Linears gave there and on the CPU for the same x that differ in a bit, of how
// many. With keep=host it is the video of a third call, without the folder's weights, which go after the
// first: that call keeps everything there. `pages` is f32: what is allocated there after that call, as text
// encoder, image encoder (where there is one), transformer and VAE begin their turns, and at the end.
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "aerogel/error.h"
#include "aerogel/pipeline.h"
#include "aerogel/safetensors.h"
#include "base/random.h"
#include "core/device_memory.h"
#include "ops/hidden_machine.h"

namespace {

using aerogel::GenerateOptions;
using aerogel::LoadOptions;
using aerogel::Tensor;
using aerogel::TensorView;
using aerogel::Transformer;

struct Call {
    GenerateOptions options;
    LoadOptions transformer, text;
    std::optional<aerogel::testing::HiddenDevice> hidden;
};

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
    if (key == "keep")
        options.keep = value == "1"      ? aerogel::Keep::on_device
                       : value == "host" ? aerogel::Keep::in_host_memory
                                         : aerogel::Keep::nothing;
    if (key == "stagger") options.sampling.stagger = std::stod(value);
}

void set_loading(Call& call, const std::string& key, const std::string& value) {
    if (key == "device" && value == "hidden") call.hidden.emplace();
    if (key == "device" && value != "cpu") call.transformer.device = call.text.device = aerogel::Device::cuda;
    if (key == "scheme") call.transformer.online.emplace().quant_type = value;
    if (key == "text_scheme") call.text.online.emplace().quant_type = value;
}

/// Compares the Linears of a model with those of its twin on the CPU.
class Twins {
  public:
    Twins(const std::string& folder, LoadOptions options, const Transformer& there) : there_(there) {
        options.device = aerogel::Device::cpu;
        here_ = Transformer::load(folder, options);
    }

    void look(const std::string& name, int step, const TensorView& x) {
        const aerogel::Linear& layer = here_->linear(name);
        if (layer.scheme() == "FLOAT") return;
        Tensor input(x.dtype, x.shape);
        std::memcpy(input.mutable_data(), x.data, input.bytes());  // dense, as hooks get it
        const Tensor a = output(layer, input, step),
                     b = output(there_.linear(name), input.to(there_.device()), step).to(a.device());
        const auto* left = static_cast<const std::uint32_t*>(a.data());
        const auto* right = static_cast<const std::uint32_t*>(b.data());
        for (std::int64_t i = 0; i < a.count(); ++i)
            if (left[i] != right[i]) ++counts[0];
        counts[1] += static_cast<float>(a.count());
    }

    std::vector<float> counts = {0, 0};

  private:
    static Tensor output(const aerogel::Linear& layer, const Tensor& x, int step) {
        aerogel::Shape shape = x.shape();
        shape.back() = layer.out_features();
        Tensor y(aerogel::DType::f32, shape, x.device());
        layer.forward(x, y, {.timestep_index = step});
        return y;
    }

    const Transformer& there_;
    std::unique_ptr<Transformer> here_;
};

/// Of the device.
float pages_in_use() {
    const auto all = std::uint64_t{1} << 30;  // of a fake GPU
    const std::size_t hidden = aerogel::testing::hidden_bytes_in_use();
    const std::uint64_t bytes =
        hidden > 0 ? hidden : all - aerogel::free_bytes(aerogel::Device::cuda).value();
    return static_cast<float>(bytes / 4096);
}

/// A call that keeps everything on the device, and one that keeps nothing there, whose files are gone.
void wait_in_host_memory(aerogel::Pipeline& pipeline, const std::string& folder, GenerateOptions& options,
                         std::vector<float>& pages) {
    GenerateOptions first = options;
    first.keep = aerogel::Keep::on_device;
    pipeline.generate(first);
    pages.push_back(pages_in_use());
    for (const char* part : {"text_encoder", "image_encoder", "transformer", "vae"})
        std::filesystem::remove_all(std::filesystem::path(folder) / part);
    pipeline.generate(options);
    options.on_stage = [&](std::string_view stage, double done) {
        const bool turn =
            stage == "encode prompt" || stage == "look at image" || stage == "denoise" || stage == "decode";
        if (turn && done == 0.0) pages.push_back(pages_in_use());
        return true;
    };
}

void run(int argc, char** argv) {
    Call call;
    GenerateOptions& options = call.options;
    for (int i = 3; i < argc; ++i) {
        const std::string argument = argv[i];
        const std::size_t equals = argument.find('=');
        if (equals == std::string::npos) throw aerogel::InvalidArgument("not KEY=VALUE: " + argument);
        const std::string key = argument.substr(0, equals), value = argument.substr(equals + 1);
        set(options, key, value);
        set_loading(call, key, value);
    }
    auto pipeline = aerogel::Pipeline::load(argv[1], call.transformer, call.text);
    std::optional<Twins> twins;
    if (call.transformer.device != aerogel::Device::cpu && call.transformer.online) {
        twins.emplace(argv[1], call.transformer, pipeline.transformer());
        options.on_linear_input = [&](const std::string& name, int step, const TensorView& x) {
            twins->look(name, step, x);
        };
    }
    std::vector<float> pages;
    if (options.keep == aerogel::Keep::in_host_memory) wait_in_host_memory(pipeline, argv[1], options, pages);
    const auto result = pipeline.generate(options);
    if (!pages.empty()) pages.push_back(pages_in_use());
    Tensor noise(aerogel::DType::f32, result.video.shape());
    aerogel::fill_normal(std::span(noise.mutable_as<float>(), static_cast<std::size_t>(noise.count())),
                         options.sampling.seed);
    std::map<std::string, Tensor> arrays = {{"video", result.video}, {"noise", noise}};
    if (twins) arrays["differing"] = Tensor::of(twins->counts, {2});
    if (!pages.empty()) arrays["pages"] = Tensor::of(pages, {static_cast<std::int64_t>(pages.size())});
    aerogel::save_safetensors(argv[2], arrays);
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
