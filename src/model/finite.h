// A forward pass that gives values that are not finite is an error, which names the first place where they
// arose. Looking at the residual stream once per block costs a fraction of a percent of the block.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "aerogel/transformer.h"

namespace aerogel {

/// InvalidArgument naming the input.
void check_finite_input(std::string_view family, const TransformerInput& input, const Context& context);

/// The checks of one pass of a model of `family`.
struct FiniteChecks {
    std::string_view family;
    const TransformerStep& step;

    /// InvalidArgument when `values` (f32, contiguous) are not finite: "[wan] the output of block 3 is not
    /// finite in step 2: ...", with the weight to blame where `layers`, which led to them, have one.
    void operator()(const std::string& what, const TensorView& values,
                    std::span<const LinearSlot* const> layers) const;
};

}  // namespace aerogel
