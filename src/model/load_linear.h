// Linears of a checkpoint.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "aerogel/transformer.h"
#include "model/checkpoint.h"

namespace aerogel {

/// The Linear of NAME.weight, and NAME.bias if it `has_bias`, in a slot of that name. Without a layer when
/// the checkpoint noted a problem.
inline LinearSlot load_linear(Checkpoint& checkpoint, const std::string& name, std::int64_t in_features,
                              std::int64_t out_features, bool has_bias) {
    const Tensor weight = checkpoint.take(name + ".weight", {out_features, in_features});
    Tensor bias = has_bias ? checkpoint.take(name + ".bias", {out_features}) : Tensor();
    if (!weight.defined()) return {name, nullptr};
    return {name, std::make_unique<FloatLinear>(weight, std::move(bias), checkpoint.device())};
}

}  // namespace aerogel
