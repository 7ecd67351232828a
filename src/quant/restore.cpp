// Streaming dequantization of a whole pair: memory holds one layer at a time.
#include "quant/restore.h"

#include <map>
#include <set>
#include <utility>
#include <vector>

#include "aerogel/error.h"
#include "aerogel/safetensors.h"
#include "base/thread_pool.h"
#include "ops/hadamard.h"
#include "quant/algorithms/output_error.h"
#include "quant/layer_arrays.h"

namespace aerogel {
namespace {

// What becomes of each tensor of the weight file.
struct Plan {
    std::vector<TensorInfo> outputs;
    std::vector<std::string> sources;                      ///< tensor in the weight file, one per output
    std::map<std::string, const QuantizedLayer*> weights;  ///< source -> the layer whose weight it is
    std::set<std::string> residuals;                       ///< float layers beside a low-rank part
};

// The low-rank factors of a layer in the file.
struct Factors {
    explicit Factors(const std::string& layer)
        : l1(stored_name(layer_array("svd_lowrank_l1"), layer, layer)),
          l2(stored_name(layer_array("svd_lowrank_l2"), layer, layer)) {}
    std::string l1, l2;
};

// Layers whose weight is a float residual: decomposed, but not quantized.
std::set<std::string> float_residuals(const QuantizedPair& pair) {
    const std::string part = Factors("").l1;
    std::set<std::string> layers;
    for (const std::string& name : pair.weights().names()) {
        if (!name.ends_with(part)) continue;
        std::string layer = name.substr(0, name.size() - part.size());
        const bool decomposed =
            pair.weights().contains(layer + ".weight") && pair.weights().contains(Factors(layer).l2);
        if (decomposed) layers.insert(std::move(layer));
    }
    for (const QuantizedLayer& layer : pair.layers()) layers.erase(layer.name);
    return layers;
}

// Mapped pages count as memory of this process until they are given back.
void release_layer(const QuantizedPair& pair, const QuantizedLayer& layer) {
    for (const std::string& tensor : tensors_of(layer)) {
        if (pair.weights().contains(tensor)) pair.weights().release(tensor);
    }
}

Plan make_plan(const QuantizedPair& pair) {
    std::map<std::string, const QuantizedLayer*> weights;
    std::map<std::string, std::string> renamed;
    std::set<std::string> dropped;
    for (const QuantizedLayer& layer : pair.layers()) {
        weights[layer.weight_tensor()] = &layer;
        renamed[layer.prefix + ".bias"] = layer.restored_name() + ".bias";
        for (std::string& tensor : tensors_of(layer)) dropped.insert(std::move(tensor));
        dropped.erase(layer.weight_tensor());
        dropped.erase(layer.prefix + ".bias");
    }
    for (const StoredAttention& attention : pair.attentions()) {
        for (std::string& tensor : pair.tensors_of(attention)) dropped.insert(std::move(tensor));
    }
    dropped.insert(pair.marks().begin(), pair.marks().end());
    Plan plan;
    for (const std::string& layer : float_residuals(pair)) {
        plan.residuals.insert(layer + ".weight");
        const Factors factors(layer);
        dropped.insert({factors.l1, factors.l2});
    }
    for (const std::string& name : pair.weights().names()) {
        if (dropped.contains(name)) continue;
        TensorInfo info = pair.weights().info(name);
        if (weights.contains(name)) {
            // Everything is read, and so checked, before the first byte is written.
            const QuantizedTensor weight = pair.read(*weights.at(name)).weight;
            info = {weights.at(name)->restored_name() + ".weight", DType::f32, {weight.rows, weight.columns}};
            release_layer(pair, *weights.at(name));
        } else if (renamed.contains(name)) {
            info.name = renamed.at(name);
        }
        const std::string problem = pair.program().empty() ? "" : unmarked_problem(info);
        if (!problem.empty())
            throw InvalidArgument("[dequantize] " + pair.weights().path().string() + ": " + problem);
        plan.outputs.push_back(info);
        plan.sources.push_back(name);
    }
    plan.weights = std::move(weights);
    return plan;
}

// weight f32 [n,k] += l2 l1.
void add_low_rank(Tensor& weight, const Tensor& l1, const Tensor& l2) {
    const Tensor right = l1.to(DType::f32), left = l2.to(DType::f32);
    const std::int64_t columns = weight.dim(1), rank = right.dim(0);
    parallel_for(weight.dim(0), [&](std::int64_t row, int) {
        std::vector<double> sum(static_cast<std::size_t>(columns));
        for (std::int64_t r = 0; r < rank; ++r) {
            const auto factor = static_cast<double>(left.as<float>()[row * rank + r]);
            const float* from = right.as<float>() + r * columns;
            for (std::int64_t i = 0; i < columns; ++i) {
                sum[static_cast<std::size_t>(i)] += factor * static_cast<double>(from[i]);
            }
        }
        float* to = weight.mutable_as<float>() + row * columns;
        for (std::int64_t i = 0; i < columns; ++i) {
            to[i] = static_cast<float>(static_cast<double>(to[i]) + sum[static_cast<std::size_t>(i)]);
        }
    });
}

// W R -> W: R = diag(signs) H with H symmetric and orthogonal.
Tensor rotated_back(const Tensor& weight, const QuantizedLinearWeights& layer) {
    Tensor back(DType::f32, weight.shape());
    hadamard_rows(weight, back, rotation_of(layer), Tensor());
    return scale_columns(back, layer.rotation.reshaped({weight.dim(1)}));
}

Tensor in_order_of_x(const Tensor& weight, const Tensor& order) {
    Tensor back(DType::f32, weight.shape());
    const std::int64_t columns = weight.dim(1);
    parallel_for(weight.dim(0), [&](std::int64_t row, int) {
        const float* from = weight.as<float>() + row * columns;
        float* to = back.mutable_as<float>() + row * columns;
        for (std::int64_t i = 0; i < columns; ++i) to[order.as<std::int32_t>()[i]] = from[i];
    });
    return back;
}

}  // namespace

Tensor restored_weight(const QuantizedLinearWeights& layer) {
    Tensor weight = dequantize(layer.weight);
    if (layer.rotation.defined()) weight = rotated_back(weight, layer);
    if (layer.low_rank_l1.defined()) add_low_rank(weight, layer.low_rank_l1, layer.low_rank_l2);
    if (layer.column_order.defined()) return in_order_of_x(weight, layer.column_order);
    return layer.mul_scale.defined() ? scale_columns(weight, layer.mul_scale) : weight;
}

namespace {

// What restored() has read for it.
void release(const QuantizedPair& pair, const Plan& plan, const std::string& source) {
    if (const auto layer = plan.weights.find(source); layer != plan.weights.end()) {
        release_layer(pair, *layer->second);
        return;
    }
    pair.weights().release(source);
    if (!plan.residuals.contains(source)) return;
    const Factors factors(source.substr(0, source.rfind('.')));
    pair.weights().release(factors.l1);
    pair.weights().release(factors.l2);
}

// One tensor of the weight file as it goes into the float file.
Tensor restored(const QuantizedPair& pair, const Plan& plan, const std::string& source) {
    const SafetensorsFile& file = pair.weights();
    if (const auto layer = plan.weights.find(source); layer != plan.weights.end()) {
        return restored_weight(pair.read(*layer->second));
    }
    if (!plan.residuals.contains(source)) return file.tensor(source);
    const std::string layer = source.substr(0, source.rfind('.'));
    const Factors factors(layer);
    const Tensor l1 = file.tensor(factors.l1), l2 = file.tensor(factors.l2);
    const Tensor residual = file.tensor(source);
    Tensor weight = residual.to(DType::f32);
    const Shape &a = l1.shape(), &b = l2.shape();
    if (a.size() != 2 || b.size() != 2 || a[0] != b[1] || weight.shape() != Shape{b[0], a[1]}) {
        throw InvalidArgument("[dequantize] " + file.path().string() + ": the low-rank part of " + layer +
                              " must be [r,k] and [n,r], got " + l1.describe() + " and " + l2.describe() +
                              " beside " + residual.describe());
    }
    add_low_rank(weight, l1, l2);
    return weight.to(residual.dtype());
}

}  // namespace

std::size_t restore_floats(const QuantizedPair& pair, const std::filesystem::path& path,
                           const RestoreOptions& options) {
    const Plan plan = make_plan(pair);
    SafetensorsWriter writer(path, plan.outputs);
    for (std::size_t i = 0; i < plan.outputs.size(); ++i) {
        if (i + 1 < plan.sources.size()) pair.weights().prefetch(plan.sources[i + 1]);
        writer.write(plan.outputs[i].name, restored(pair, plan, plan.sources[i]));
        release(pair, plan, plan.sources[i]);
        pair.weights().check_intact();
        if (options.progress) options.progress(i + 1, plan.outputs.size(), plan.outputs[i].name);
    }
    writer.finish();
    return pair.layers().size();
}

}  // namespace aerogel
