// Half of the memory is for weights: as few bits as it takes to get there.
#include "model/automatic.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "base/cpu_features.h"
#include "quant/float_layer.h"
#include "quant/name_pattern.h"
#include "quant/schemes.h"

namespace aerogel {
namespace {

// Of the further layers: they are sensitive, so activations stay float.
constexpr std::array<std::string_view, 3> kFurtherSchemes = {"", "W8A16", "W4A16"};

class Choice {
  public:
    Choice(std::span<const SizedLinear> linears, const AutomaticRules& rules)
        : linears_(linears), rules_(rules), default_(rules.layers), further_(rules.schemes.further_layers) {}

    bool any(const NamePattern& pattern) const {
        return std::any_of(linears_.begin(), linears_.end(), [&](const SizedLinear& linear) {
            return linear.quantized_bytes == 0 && pattern.matches(linear.name);
        });
    }
    bool any_default() const { return any(default_); }
    bool any_further() const { return !rules_.schemes.further_layers.empty() && any(further_); }

    double float_bytes() const {
        double bytes = 0.0;
        for (const SizedLinear& linear : linears_)
            if (linear.quantized_bytes == 0) bytes += running_bytes(linear.dtype, linear.shape);
        return bytes;
    }

    /// Of the default and of the further layers, the most bits first. An empty scheme leaves layers float.
    std::vector<std::pair<std::string_view, std::string_view>> by_bits() const {
        std::vector<std::pair<std::string_view, std::string_view>> all;
        for (const std::string_view scheme : {rules_.schemes.eight_bits, rules_.schemes.four_bits})
            for (const std::string_view further : kFurtherSchemes)
                if (further.empty() || any_further()) all.emplace_back(scheme, further);
        return all;
    }

    double bytes(std::string_view scheme, std::string_view of_further) const {
        double sum = 0.0;
        for (const SizedLinear& linear : linears_) {
            const std::string_view its = default_.matches(linear.name)   ? scheme
                                         : further_.matches(linear.name) ? of_further
                                                                         : "";
            if (linear.quantized_bytes != 0)
                sum += static_cast<double>(linear.quantized_bytes);
            else if (its.empty())
                sum += running_bytes(linear.dtype, linear.shape);
            else
                sum += static_cast<double>(quantized_bytes(scheme_row("load", its), linear.shape));
        }
        return sum;
    }

  private:
    std::span<const SizedLinear> linears_;
    const AutomaticRules& rules_;
    NamePattern default_, further_;
};

}  // namespace

double running_bytes(DType dtype, const Shape& shape) {
    const bool narrow = dtype == DType::bf16 && cpu_level() >= CpuLevel::avx512_bf16;
    return static_cast<double>(element_count(shape)) * (narrow ? 2.0 : 4.0);
}

std::optional<AutomaticChoice> choose_schemes(std::span<const SizedLinear> linears,
                                              const AutomaticRules& rules) {
    const Choice choice(linears, rules);
    const double half = rules.memory / 2;
    AutomaticChoice chosen;
    chosen.float_bytes = choice.float_bytes();
    if (chosen.float_bytes <= half || !choice.any_default()) return std::nullopt;
    std::string_view of_further;
    for (const auto& [scheme, further] : choice.by_bits()) {
        chosen.scheme = scheme;
        of_further = further;
        chosen.bytes = choice.bytes(scheme, further);
        if (chosen.bytes <= half) break;
    }
    chosen.config.quant_type = chosen.scheme;
    if (of_further.empty()) return chosen;
    const std::string further_layers(rules.schemes.further_layers);
    chosen.config.include = {std::string(rules.layers), further_layers};
    chosen.config.fallback_layers = {{further_layers, std::string(of_further)}};
    chosen.scheme += fmt::format(" ({} to {})", further_layers, of_further);
    return chosen;
}

}  // namespace aerogel
