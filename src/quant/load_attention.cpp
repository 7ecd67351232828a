// Quantized attention in a pair: which modules, and their rotations or calibrated scales.
#include <fmt/format.h>

#include <unordered_map>

#include "aerogel/error.h"
#include "quant/algorithms/model_dtype.h"
#include "quant/attention_types.h"
#include "quant/load.h"
#include "quant/schemes.h"

namespace aerogel {
namespace {

constexpr std::string_view kType = ".quant_type";

// "blocks.0.attn1" of "blocks.0.attn1.fa_q.scale", or an empty string.
std::string module_of_scale(const std::string& key) {
    for (const char* part : {".fa_", ".fa3_"}) {
        if (const std::size_t at = key.find(part); at != std::string::npos) return key.substr(0, at);
    }
    return {};
}

class AttentionReader {
  public:
    AttentionReader(const SafetensorsFile& file, const QuantizedAttention& attention)
        : file_(file), attention_(attention) {}

    [[noreturn]] void refuse(const std::string& tensor, const std::string& wanted,
                             const std::string& got) const {
        throw InvalidArgument(fmt::format("[quantize] {}: '{}.{}' ({}) must be {}, got {}",
                                          file_.path().string(), attention_.name, tensor,
                                          attention_.quant_type, wanted, got));
    }
    Tensor find(const std::string& tensor) const {
        const std::string name = attention_.name + "." + tensor;
        return file_.contains(name) ? file_.tensor(name) : Tensor();
    }
    // A square matrix that is orthogonal, or so up to a factor.
    Tensor rotation(const std::string& tensor, const AttentionType& type, std::int64_t head_dim) const {
        const Tensor stored = find(tensor);
        if (!stored.defined()) {
            if (type.needs_rotation) refuse(tensor, "in the file", "nothing");
            return {};
        }
        const std::int64_t d = head_dim != 0 ? head_dim : (stored.shape().empty() ? 0 : stored.dim(0));
        if (!is_model_dtype(stored.dtype()) || d < 1 || stored.shape() != Shape{d, d}) {
            refuse(tensor,
                   fmt::format("f32, bf16 or f16 {}", head_dim == 0 ? "[d,d]" : to_string(Shape{d, d})),
                   stored.describe());
        }
        return stored.dtype() == DType::f16 ? stored.to(DType::f32) : stored;
    }
    // One value per head, under the name of either exporter; undefined when there is none.
    Tensor per_head(char part, const std::string& kind, std::int64_t heads) const {
        std::string name;
        Tensor stored;
        for (const char* prefix : {"fa_", "fa3_"}) {
            name = std::string(prefix) + part + "." + kind;
            if ((stored = find(name)).defined()) break;
        }
        if (!stored.defined()) {
            if (kind == "scale") refuse(std::string("fa_") + part + "." + kind, "in the file", "nothing");
            return {};
        }
        const bool typed = is_model_dtype(stored.dtype()) || stored.dtype() == DType::i8;
        if (!typed || stored.count() < 1 || (heads != 0 && stored.count() != heads)) {
            refuse(name, heads == 0 ? "[heads,1]" : fmt::format("[{},1], one per head of this model", heads),
                   stored.describe());
        }
        return stored.to(DType::f32).reshaped({stored.count()});
    }

  private:
    const SafetensorsFile& file_;
    const QuantizedAttention& attention_;
};

}  // namespace

void QuantizedPair::find_attentions() {
    std::unordered_map<std::string, std::size_t> places;
    const auto add = [&](const std::string& name, const std::string& type, bool wins) {
        const auto [place, is_new] = places.emplace(name, attentions_.size());
        if (is_new) {
            attentions_.push_back({name, type});
        } else if (wins) {
            attentions_[place->second].quant_type = type;
        }
    };
    for (const auto& [key, type] : description_.entries) {
        if (key.ends_with(kType)) {
            if (type != "FLOAT") add(key.substr(0, key.size() - kType.size()), upper_case(type), true);
        } else if (const std::string module = module_of_scale(key); !module.empty() && type != "FLOAT") {
            add(module, "FAQUANT", false);
        }
    }
}

std::vector<std::string> QuantizedPair::tensors_of(const QuantizedAttention& attention) const {
    std::vector<std::string> names;
    for (const char* tensor : {".q_rot", ".k_rot"}) names.push_back(attention.name + tensor);
    for (const char* prefix : {".fa_", ".fa3_"}) {
        for (const char part : {'q', 'k', 'v'}) {
            for (const char* kind : {".scale", ".offset"})
                names.push_back(attention.name + prefix + part + kind);
        }
    }
    std::erase_if(names, [&](const std::string& name) { return !weights_.contains(name); });
    return names;
}

AttentionQuantization QuantizedPair::read(const QuantizedAttention& attention, std::int64_t heads,
                                          std::int64_t head_dim) const {
    const auto type = find_attention_type(attention.quant_type);
    if (!type) throw Unsupported(fmt::format("{} attention is not there yet", attention.quant_type));
    const AttentionReader reader(weights_, attention);
    AttentionQuantization result;
    result.quant_type = attention.quant_type;
    result.format = type->format;
    if (type->calibrated) {
        result.scales =
            AttentionScales{reader.per_head('q', "scale", heads),  reader.per_head('k', "scale", heads),
                            reader.per_head('v', "scale", heads),  reader.per_head('q', "offset", heads),
                            reader.per_head('k', "offset", heads), reader.per_head('v', "offset", heads)};
        weights_.check_intact();
        return result;
    }
    result.q_rotation = reader.rotation("q_rot", *type, head_dim);
    result.k_rotation = reader.rotation("k_rot", *type, head_dim);
    if (result.q_rotation.defined() != result.k_rotation.defined()) {
        reader.refuse(result.q_rotation.defined() ? "k_rot" : "q_rot", "in the file beside the other",
                      "nothing");
    }
    weights_.check_intact();
    return result;
}

}  // namespace aerogel
