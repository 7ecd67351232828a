// QuantizedPair over the checkpoint of another program: its layers under our names for them.
#include <fmt/format.h>

#include <set>
#include <utility>

#include "aerogel/error.h"
#include "core/paths.h"
#include "quant/layer_arrays.h"
#include "quant/load.h"
#include "quant/schemes.h"

namespace aerogel {
namespace {

bool is_index_name(const std::filesystem::path& name) {
    const std::filesystem::path index = name.stem();
    return has_extension(name, ".json") && has_extension(index, ".index") &&
           has_extension(index.stem(), ".safetensors");
}

}  // namespace

bool QuantizedPair::is_checkpoint(const std::filesystem::path& path) {
    return has_extension(path, ".safetensors") || is_index_name(path.filename());
}

QuantizedPair QuantizedPair::open_checkpoint(const std::filesystem::path& path) {
    SafetensorsFile weights = SafetensorsFile::open(path);
    ForeignCheckpoint foreign = foreign_checkpoint(weights);
    if (!foreign) {
        throw InvalidArgument(
            fmt::format("[quantize] {} is no quantized checkpoint: nothing in it says how its layers are "
                        "quantized (of a pair, name the description)",
                        path.string()));
    }
    QuantizedPair pair(std::move(weights));
    pair.path_ = path;
    std::set<std::string> of_layers;
    for (std::size_t i = 0; i < foreign.layers.size(); ++i) {
        const ForeignLayer& layer = foreign.layers[i];
        pair.layers_.push_back(
            {layer.name(), layer.prefix, layer.quant_type, layer.tensors, static_cast<std::int64_t>(i)});
        for (const std::string& tensor : layer.tensors) {
            pair.description_.entries.emplace_back(tensor, layer.quant_type);
            of_layers.insert(tensor);
        }
        pair.description_.model_quant_type = layer.quant_type;
    }
    of_layers.insert(foreign.marks.begin(), foreign.marks.end());
    for (const std::string& name : pair.weights_.names())
        if (!of_layers.contains(name)) pair.description_.entries.emplace_back(name, "FLOAT");
    pair.foreign_ = std::move(foreign);
    return pair;
}

void QuantizedPair::rename_layers(
    const std::function<std::vector<std::string>(const std::string& name)>& names_of) {
    if (!foreign_) return;
    std::vector<QuantizedLayer> renamed;
    for (const QuantizedLayer& layer : layers_) {
        const std::vector<std::string> names = names_of(layer.name);
        if (names.empty()) renamed.push_back(layer);
        for (std::size_t part = 0; part < names.size(); ++part) {
            QuantizedLayer& row = renamed.emplace_back(layer);
            row.name = names[part];
            row.part = part;
            row.parts = names.size();
        }
    }
    layers_ = std::move(renamed);
}

QuantizedLinearWeights QuantizedPair::read_layer_of_checkpoint(const QuantizedLayer& layer) const {
    const ForeignLayer& stored = foreign_.layers.at(static_cast<std::size_t>(layer.foreign));
    QuantizedLinearWeights weights = read_foreign(weights_, stored);
    if (layer.parts > 1) {
        const auto parts = static_cast<std::int64_t>(layer.parts);
        const std::int64_t count = weights.weight.rows / parts;
        if (count * parts != weights.weight.rows) {
            throw InvalidArgument(fmt::format(
                "[quantize] {}: '{}' holds {} layers: it must have a multiple of as many rows, got {}",
                weights_.path().string(), layer.prefix, parts, weights.weight.rows));
        }
        weights = rows_of(weights, static_cast<std::int64_t>(layer.part) * count, count);
    }
    if (layer.quant_type == stored.quant_type) return weights;
    weights.scheme = stored_scheme_row("quantize", layer.quant_type).name;
    try {
        check_layer(weights);
    } catch (const InvalidArgument& error) {
        throw InvalidArgument(
            fmt::format("[quantize] {}: layer {}: {}", weights_.path().string(), layer.name, error.what()));
    }
    return weights;
}

}  // namespace aerogel
