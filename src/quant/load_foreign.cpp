// QuantizedPair over the checkpoint of another program: its layers under our names for them.
#include <fmt/format.h>

#include <algorithm>
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

QuantizedLinearWeights QuantizedPair::read_layer_of_checkpoint(const QuantizedLayer& layer) const {
    const ForeignLayer& stored = foreign_.layers.at(static_cast<std::size_t>(layer.foreign));
    QuantizedLinearWeights weights = read_foreign(weights_, stored);
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
