// Checks of a pair: every layer is read as quantize() would; layers of unsupported schemes are
// checked as far as their scales tell.
#include "quant/inspection.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "aerogel/cancellation.h"
#include "aerogel/error.h"
#include "quant/algorithms/model_dtype.h"
#include "quant/layer_arrays.h"
#include "quant/schemes.h"

namespace aerogel {
namespace {

// NaN or infinite scales, and E8M0 scale bytes of 255, which stand for NaN.
std::string scale_problem(const Tensor& scale) {
    const std::int64_t count = scale.count();
    if (scale.dtype() == DType::u8 || scale.dtype() == DType::f8_e8m0) {
        const auto* bytes = static_cast<const std::uint8_t*>(scale.data());
        const auto bad = std::count(bytes, bytes + count, std::uint8_t{255});
        return bad == 0 ? "" : fmt::format("{} of {} E8M0 scales are 255 (NaN)", bad, count);
    }
    if (!is_model_dtype(scale.dtype())) return "";
    const Tensor values = scale.to(DType::f32);
    const auto* first = values.as<float>();
    const auto bad = std::count_if(first, first + count, [](float x) { return !std::isfinite(x); });
    return bad == 0 ? "" : fmt::format("{} of {} scales are not finite", bad, count);
}

class Inspector {
  public:
    explicit Inspector(const QuantizedPair& pair) : pair_(pair), file_(pair.weights()) {}

    PairInspection run() {
        for (const QuantizedLayer& layer : pair_.layers()) inspect_layer(layer);
        inspect_attentions();
        for (const std::string& mark : pair_.marks()) used_.insert(mark);
        inspect_listing();
        inspect_others();
        return std::move(result_);
    }

  private:
    void inspect_layer(const QuantizedLayer& layer) {
        PairInspection::Layer found;
        found.name = layer.name;
        found.scheme = layer.quant_type;
        found.bytes = pair_.stored_bytes(layer);
        found.smoothed = layer.foreign < 0 && layer.prefix != layer.name;
        const std::string weight = stored_name(layer_array("weight"), layer.name, layer.prefix);
        if (file_.contains(weight)) found.shape = file_.info(weight).shape;
        try {
            const QuantizedLinearWeights weights = pair_.read(layer);
            found.shape = {weights.weight.rows, weights.weight.columns};
            found.steps = static_cast<std::size_t>(weights.steps());
            found.runs = true;
        } catch (const Unsupported& error) {
            if (layer.foreign < 0) {
                not_there_.insert(layer.quant_type);
                inspect_scales(layer);
            } else {
                result_.problems.emplace_back(error.what());
            }
        } catch (const Cancelled&) {
            throw;
        } catch (const Error& error) {
            result_.problems.emplace_back(error.what());
        }
        for (std::string& name : tensors_of(layer)) used_.insert(std::move(name));
        result_.layers.push_back(std::move(found));
    }

    void inspect_attentions() {
        std::map<std::string, int> counts;
        for (const StoredAttention& attention : pair_.attentions()) {
            for (std::string& name : pair_.tensors_of(attention)) used_.insert(std::move(name));
            try {
                ++counts["quantized attention: " + pair_.read(attention).quant_type];
            } catch (const Unsupported& error) {
                ++counts[std::string(error.what()) + ", it runs in float"];
            } catch (const Cancelled&) {
                throw;
            } catch (const Error& error) {
                result_.problems.emplace_back(error.what());
            }
        }
        for (const auto& [what, count] : counts) {
            result_.notes.push_back(fmt::format("{} ({} of them)", what, count));
        }
    }

    void inspect_scales(const QuantizedLayer& layer) {
        const std::string name = stored_name(layer_array("weight_scale"), layer.name, layer.prefix);
        if (!file_.contains(name)) {
            result_.problems.push_back(fmt::format("'{}' ({}) is missing", name, layer.quant_type));
            return;
        }
        if (const auto wrong = scale_problem(file_.tensor(name)); !wrong.empty()) {
            result_.problems.push_back(fmt::format("'{}' ({}): {}", name, layer.quant_type, wrong));
        }
    }

    void inspect_listing() {
        for (const auto& [key, type] : pair_.description().entries) {
            const bool attention_key = key.ends_with("quant_type");
            const bool module_key = file_.contains(key + ".weight");
            if (file_.contains(key) || attention_key || module_key || used_.contains(key)) continue;
            if (type != "FLOAT" && !is_quant_type(type)) continue;
            result_.problems.push_back(
                fmt::format("'{}' ({}) is in the description but not in the weight file", key, type));
        }
        for (const std::string& type : not_there_) {
            result_.notes.push_back(
                fmt::format("scheme {} is not supported; supported are: {}", type, scheme_names()));
        }
    }

    void inspect_others() {
        std::set<std::string> listed;
        for (const auto& [key, type] : pair_.description().entries) listed.insert(key);
        for (const std::string& name : file_.names()) {
            const TensorInfo& info = file_.info(name);
            result_.bytes += info.bytes();
            if (used_.contains(name)) continue;
            std::string problem = pair_.program().empty() ? "" : unmarked_problem(info);
            if (!problem.empty()) result_.problems.push_back(std::move(problem));
            const char* why = listed.contains(name) ? "marked FLOAT" : "not in the description";
            result_.floats.push_back({name, info.dtype, info.shape, why});
        }
    }

    const QuantizedPair& pair_;
    const SafetensorsFile& file_;
    PairInspection result_;
    std::set<std::string> used_;
    std::set<std::string> not_there_;
};

}  // namespace

std::map<std::string, std::size_t> PairInspection::scheme_counts() const {
    std::map<std::string, std::size_t> counts;
    for (const Layer& layer : layers) ++counts[layer.scheme];
    return counts;
}

double PairInspection::bits_per_weight() const {
    double bits = 0.0, weights = 0.0;
    for (const Layer& layer : layers) {
        bits += 8.0 * static_cast<double>(layer.bytes);
        weights += static_cast<double>(element_count(layer.shape));
    }
    return weights == 0.0 ? 0.0 : bits / weights;
}

PairInspection inspect_pair(const QuantizedPair& pair) {
    return Inspector(pair).run();
}

}  // namespace aerogel
