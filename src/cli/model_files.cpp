// The places where diffusers puts weights.
#include "cli/model_files.h"

#include <fmt/format.h>

#include "aerogel/error.h"

namespace aerogel::cli {
namespace fs = std::filesystem;

fs::path weights_of_model(const char* op, const fs::path& model) {
    if (fs::is_regular_file(model)) return model;
    if (!fs::exists(model)) throw IoError(fmt::format("[{}] {} does not exist", op, model.string()));
    for (const fs::path& folder : {model, model / "transformer"}) {
        for (const char* name : {"diffusion_pytorch_model", "model"}) {
            for (const char* ending : {".safetensors", ".safetensors.index.json"}) {
                const fs::path path = folder / (std::string(name) + ending);
                if (fs::is_regular_file(path)) return path;
            }
        }
    }
    throw IoError(
        fmt::format("[{}] {} has no diffusion_pytorch_model.safetensors (or .safetensors.index.json), nor "
                    "has its transformer/",
                    op, model.string()));
}

}  // namespace aerogel::cli
