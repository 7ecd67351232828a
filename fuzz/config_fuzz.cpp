// Any bytes as the JSON files of a pipeline folder: config.json of the transformer and the text encoder, the
// scheduler's, and model_index.json. Either an error of ours, or sizes that can be multiplied.
#include "aerogel/error.h"
#include "aerogel/safetensors.h"
#include "model/families.h"
#include "model/pipeline_folder.h"
#include "model/text/text_model.h"
#include "model/wan/config.h"
#include "temporary_file.h"

namespace {

template <typename Read>
void attempt(const Read& read) {
    try {
        read();
    } catch (const aerogel::InvalidArgument&) {
        return;
    } catch (const aerogel::Unsupported&) {
        return;
    } catch (const aerogel::IoError&) {
        return;
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace aerogel;
    static const bool ready = [] {
        save_safetensors(fuzz_folder() / "model.safetensors",
                         {{"norm.weight", Tensor::zeros(DType::f32, {4})}});
        return true;
    }();
    if (!ready) std::abort();
    const std::span bytes(data, size);
    const auto path = fuzz_file("config.json", bytes);
    attempt([&] { family_of(path); });
    attempt([&] { TextModel::load(fuzz_folder()); });  // its weights are of no model
    attempt([&] {
        const WanConfig config = WanConfig::read(path);
        if (config.inner_dim() < 1 || config.inner_dim() > 1 << 20 || config.patch_size.size() != 3)
            std::abort();
        if (config.num_layers < 1 || !(config.eps > 0.0F && config.eps < 1.0F)) std::abort();
    });
    std::filesystem::remove_all(fuzz_folder() / "index");
    fuzz_file("index/model_index.json", bytes);
    attempt([&] {
        const SamplingOptions options = PipelineFolder::read(fuzz_folder() / "index").sampling;
        if (options.frames && *options.frames < 1) std::abort();
    });
    fuzz_file("scheduler/scheduler/scheduler_config.json", bytes);
    attempt([&] { PipelineFolder::read(fuzz_folder() / "scheduler"); });
    return 0;
}
