// Any bytes as the JSON files of a pipeline folder: config.json of the transformer, the scheduler's, and
// model_index.json. Either an error of ours, or sizes that can be multiplied.
#include "aerogel/error.h"
#include "model/families.h"
#include "model/pipeline_defaults.h"
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
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace aerogel;
    const std::span bytes(data, size);
    const auto path = fuzz_file("config.json", bytes);
    attempt([&] { family_of(path); });
    attempt([&] {
        const WanConfig config = WanConfig::read(path);
        if (config.inner_dim() < 1 || config.inner_dim() > 1 << 20 || config.patch_size.size() != 3)
            std::abort();
        if (config.num_layers < 1 || !(config.eps > 0.0F && config.eps < 1.0F)) std::abort();
    });
    std::filesystem::remove_all(fuzz_folder() / "index");
    fuzz_file("index/model_index.json", bytes);
    attempt([&] {
        const SamplingOptions options = read_pipeline_defaults(fuzz_folder() / "index");
        if (options.frames && *options.frames < 1) std::abort();
    });
    fuzz_file("scheduler/scheduler/scheduler_config.json", bytes);
    attempt([&] { read_pipeline_defaults(fuzz_folder() / "scheduler"); });
    return 0;
}
