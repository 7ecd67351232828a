// Rows of names by class, and opening files by them.
#include "model/single_files.h"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "aerogel/error.h"
#include "core/json.h"
#include "core/paths.h"
#include "model/flux1_names.h"
#include "model/model_files.h"
#include "quant/foreign/foreign.h"

namespace aerogel {
namespace {

// Classes that have no native family.
struct ClassNames {
    std::string_view class_name;
    OriginalNames names;
};
constexpr std::array kOtherClasses = {ClassNames{"FluxTransformer2DModel", kFlux1Names}};

ModelWeights open_gguf(const std::filesystem::path& path) {
    const WeightFile file = WeightFile::open(path);
    for (const FamilyRow& row : families()) {
        if (has_names_of(row.original_names, file.names()))
            return {file.renamed(row.original_names), row.defaults};
    }
    for (const ClassNames& row : kOtherClasses) {
        if (has_names_of(row.names, file.names())) return {file.renamed(row.names)};
    }
    return {file};
}

}  // namespace

OriginalNames original_names_of(std::string_view class_name) {
    if (const FamilyRow* family = find_family(class_name)) return family->original_names;
    for (const ClassNames& row : kOtherClasses)
        if (row.class_name == class_name) return row.names;
    return {};
}

ModelWeights open_model_weights(const char* op, const std::filesystem::path& model, int rank) {
    const std::filesystem::path path = weights_of_model(op, model, rank);
    if (has_extension(path, ".gguf")) return open_gguf(path);
    SafetensorsFile file = SafetensorsFile::open(path);
    if (const ForeignCheckpoint foreign = foreign_checkpoint(file)) {
        throw InvalidArgument(
            fmt::format("[{}] {} is already quantized by {}; dequantize it first (aerogel dequantize)", op,
                        path.string(), foreign.program));
    }
    ModelWeights weights = {WeightFile::of(std::move(file))};
    const std::filesystem::path config = path.parent_path() / "config.json";
    if (path_exists(config)) weights.defaults = default_patterns(JsonNode::read(config, op));
    return weights;
}

}  // namespace aerogel
