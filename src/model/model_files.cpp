// The places where diffusers puts weights.
#include "model/model_files.h"

#include <fmt/format.h>

#include <string>

#include "aerogel/error.h"
#include "core/paths.h"

namespace aerogel {
namespace fs = std::filesystem;

namespace {

constexpr const char* kFile = ".safetensors";
constexpr const char* kIndex = ".safetensors.index.json";

// The file or index of that name, or an empty path.
fs::path weights_named(const fs::path& folder, const std::string& name) {
    for (const char* ending : {kFile, kIndex}) {
        const fs::path path = folder / (name + ending);
        if (is_file(path)) return path;
    }
    return {};
}

// True when the folder has "name_{digits}.safetensors" (or an index) of any rank.
bool has_ranks(const fs::path& folder, const std::string& name) {
    for (const fs::path& path : folder_entries(folder)) {
        const std::string file = path.filename().string();
        if (!file.starts_with(name + "_")) continue;
        const std::size_t digits = file.find_first_not_of("0123456789", name.size() + 1);
        if (digits == std::string::npos || digits == name.size() + 1) continue;
        const std::string ending = file.substr(digits);
        if (ending == kFile || ending == kIndex) return true;
    }
    return false;
}

// Weights of one name, of a rank if there are such files; an empty path when there are none.
fs::path weights_of_rank(const char* op, const fs::path& folder, const std::string& name, int rank) {
    if (rank < 0 || !has_ranks(folder, name)) return weights_named(folder, name);
    const fs::path path = weights_named(folder, fmt::format("{}_{}", name, rank));
    if (!path.empty()) return path;
    throw IoError(fmt::format("[{}] {} has shards of other ranks, but no {}_{}.safetensors", op,
                              folder.string(), name, rank));
}

}  // namespace

fs::path weights_of_model(const char* op, const fs::path& model, int rank) {
    if (rank >= 0 && model.extension() == kFile && !is_folder(model)) {
        const fs::path folder = model.has_parent_path() ? model.parent_path() : fs::path(".");
        const fs::path path =
            is_folder(folder) ? weights_of_rank(op, folder, model.stem().string(), rank) : fs::path();
        if (!path.empty()) return path;
    }
    if (!path_exists(model)) throw IoError(fmt::format("[{}] {} does not exist", op, model.string()));
    if (!is_folder(model)) return model;  // whoever opens it says what else it is
    for (const fs::path& folder : {model, model / "transformer"}) {
        if (!is_folder(folder)) continue;
        for (const char* name : {"diffusion_pytorch_model", "model"}) {
            const fs::path path = weights_of_rank(op, folder, name, rank);
            if (!path.empty()) return path;
        }
    }
    throw IoError(
        fmt::format("[{}] {} has no diffusion_pytorch_model.safetensors (or .safetensors.index.json), nor "
                    "has its transformer/",
                    op, model.string()));
}

}  // namespace aerogel
