// Streaming dequantization of a whole pair.
#include "quant/restore.h"

#include <map>
#include <set>
#include <vector>

#include "aerogel/safetensors.h"
#include "base/thread_pool.h"
#include "quant/schemes.h"

namespace aerogel {
namespace {

// What becomes of each tensor of the weight file.
struct Plan {
    std::vector<TensorInfo> outputs;
    std::vector<std::string> sources;                      ///< tensor in the weight file, one per output
    std::map<std::string, const QuantizedLayer*> weights;  ///< source -> the layer whose weight it is
};

Plan make_plan(const QuantizedPair& pair) {
    std::map<std::string, const QuantizedLayer*> weights;
    std::map<std::string, std::string> renamed;
    std::set<std::string> dropped;
    for (const QuantizedLayer& layer : pair.layers()) {
        weights[layer.prefix + ".weight"] = &layer;
        renamed[layer.prefix + ".bias"] = layer.name + ".bias";
        for (const std::string_view tensor : layer_tensors()) {
            dropped.insert(layer.prefix + "." + std::string(tensor));
        }
        dropped.insert(layer.name + ".div.mul_scale");
    }
    Plan plan;
    for (const std::string& name : pair.weights().names()) {
        if (dropped.contains(name)) continue;
        TensorInfo info = pair.weights().info(name);
        if (weights.contains(name)) {
            // Everything is read, and so checked, before the first byte is written.
            const QuantizedTensor weight = pair.read(*weights.at(name)).weight;
            info = {weights.at(name)->name + ".weight", DType::f32, {weight.rows, weight.columns}};
        } else if (renamed.contains(name)) {
            info.name = renamed.at(name);
        }
        plan.outputs.push_back(info);
        plan.sources.push_back(name);
    }
    plan.weights = std::move(weights);
    return plan;
}

Tensor restore_weight(const QuantizedLinearWeights& layer) {
    Tensor weight = dequantize(layer.weight);
    if (!layer.mul_scale.defined()) return weight;
    const std::int64_t columns = layer.weight.columns;
    const auto* mul_scale = layer.mul_scale.as<float>();
    auto* values = weight.as<float>();
    parallel_for(layer.weight.rows, [&](std::int64_t row, int) {
        for (std::int64_t i = 0; i < columns; ++i) values[row * columns + i] *= mul_scale[i];
    });
    return weight;
}

}  // namespace

std::size_t restore_floats(const QuantizedPair& pair, const std::filesystem::path& path,
                           const RestoreOptions& options) {
    const Plan plan = make_plan(pair);
    SafetensorsWriter writer(path, plan.outputs);
    for (std::size_t i = 0; i < plan.outputs.size(); ++i) {
        const auto weight = plan.weights.find(plan.sources[i]);
        writer.write(plan.outputs[i].name, weight == plan.weights.end()
                                               ? pair.weights().tensor(plan.sources[i])
                                               : restore_weight(pair.read(*weight->second)));
        if (options.progress) options.progress(i + 1, plan.outputs.size(), plan.outputs[i].name);
    }
    writer.finish();
    return pair.layers().size();
}

}  // namespace aerogel
