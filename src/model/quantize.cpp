// quantize(model, description): everything is read, checked and packed first, then all layers are
// exchanged, so that an error leaves the model as it was.
#include "aerogel/quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include "aerogel/error.h"
#include "aerogel/quantized_linear.h"
#include "core/text.h"
#include "quant/load.h"

namespace aerogel {
namespace {

void check_fits(const WanTransformer& model, const QuantizedPair& pair, const QuantizedLayer& layer,
                const QuantizedLinearWeights& weights) {
    const Linear& linear = model.linear(layer.name);
    if (weights.weight.rows == linear.out_features() && weights.weight.columns == linear.in_features())
        return;
    throw InvalidArgument(fmt::format("[quantize] {}: '{}.weight' must be {}[{},{}] for this model, got {}",
                                      pair.weights().path().string(), layer.prefix,
                                      to_string(weights.weight.data.dtype()), linear.out_features(),
                                      linear.in_features(), weights.weight.data.describe()));
}

std::map<std::string, std::unique_ptr<Linear>> build(const WanTransformer& model, const QuantizedPair& pair,
                                                     int first_static_step) {
    const std::vector<std::string> names = model.linear_names();
    std::map<std::string, std::unique_ptr<Linear>> built;
    for (const QuantizedLayer& layer : pair.layers()) {
        if (std::find(names.begin(), names.end(), layer.name) == names.end()) {
            throw InvalidArgument(fmt::format("[quantize] {}: the model has no Linear '{}'{}",
                                              pair.path().string(), layer.name,
                                              suggestion(layer.name, names)));
        }
        QuantizedLinearWeights weights = pair.read(layer, model.linear(layer.name).in_features());
        check_fits(model, pair, layer, weights);
        weights.first_static_step = first_static_step;
        built[layer.name] = std::make_unique<QuantizedLinear>(std::move(weights));
    }
    return built;
}

std::string why_float(const QuantizedPair& pair, const std::string& name) {
    const bool marked = pair.description().type_of(name + ".weight") == "FLOAT" ||
                        pair.description().type_of(name + ".linear.weight") == "FLOAT" ||
                        pair.description().type_of(name) == "FLOAT";
    return marked ? "marked FLOAT" : "not in the description";
}

}  // namespace

QuantizeReport quantize(WanTransformer& model, const std::filesystem::path& description_path,
                        const QuantizeOptions& options) {
    const QuantizedPair pair = QuantizedPair::open(description_path, options.rank);
    auto built = build(model, pair, options.first_static_step);
    QuantizeReport report;
    report.bytes_before = model.weight_bytes();
    for (const std::string& name : model.linear_names()) {
        const auto found = built.find(name);
        if (found == built.end()) {
            report.layers.push_back({name, "FLOAT", why_float(pair, name)});
            continue;
        }
        report.layers.push_back({name, found->second->scheme(), ""});
        model.replace_linear(name, std::move(found->second));
    }
    for (const std::string& key : pair.attention_keys()) {
        report.layers.push_back({key, "FLOAT", "quantized attention is not there yet"});
    }
    report.bytes_after = model.weight_bytes();
    return report;
}

}  // namespace aerogel
