// The checks between files and kernels: after these, a layer runs.
#include "quant/layer_check.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <string>

#include "aerogel/error.h"
#include "core/finite.h"
#include "formats/format.h"
#include "quant/algorithms/model_dtype.h"
#include "quant/layer_arrays.h"
#include "quant/schemes.h"

namespace aerogel {
namespace {

[[noreturn]] void refuse(const QuantizedLinearWeights& weights, const std::string& what) {
    throw InvalidArgument(fmt::format("[quantized_linear] {} layer {}x{}: {}", weights.scheme,
                                      weights.weight.rows, weights.weight.columns, what));
}

void check_array(const QuantizedLinearWeights& weights, std::string_view name, const Tensor& tensor,
                 DType dtype, const Shape& shape) {
    if (tensor.defined() && tensor.dtype() == dtype && tensor.shape() == shape) return;
    refuse(weights, fmt::format("{} must be {}{}, got {}", name, to_string(dtype), to_string(shape),
                                tensor.defined() ? tensor.describe() : "nothing"));
}

void check_finite(const QuantizedLinearWeights& weights, std::string_view name, const Tensor& tensor) {
    const auto bad = first_not_finite(tensor);
    if (!bad) return;
    refuse(weights, fmt::format("{} has the value {} at element {}", name, tensor.as<float>()[*bad], *bad));
}

// One step's scales of the activations.
void check_static(const QuantizedLinearWeights& weights, std::int64_t step) {
    const float scale = weights.input_scale.as<float>()[step],
                offset = weights.input_offset.as<float>()[step];
    if (!std::isfinite(scale) || scale <= 0.0F) {
        refuse(weights, fmt::format("input_scale must be positive and finite, got {}", scale));
    }
    if (!(offset >= -128.0F && offset <= 127.0F) || offset != std::nearbyint(offset)) {
        refuse(weights, fmt::format("input_offset must be a whole number of [-128, 127], got {}", offset));
    }
}

// Of the arrays that are plain numbers, and those of this scheme only.
void check_shapes(const QuantizedLinearWeights& weights, const SchemeRow& scheme) {
    const ArraySizes sizes = sizes_of(weights);
    for (const LayerArray& array : layer_arrays()) {
        if (!array.is_plain()) continue;
        const Tensor& tensor = array.in(weights);
        const bool needed = array.fits(scheme) && array.part == nullptr;
        if (!needed && !tensor.defined()) continue;
        if (!array.fits(scheme)) refuse(weights, fmt::format("this scheme has no {}", array.name));
        const DType dtype = array.form == ArrayForm::integers ? DType::i32 : DType::f32;
        check_array(weights, array.name, tensor, dtype, array.whole_shape(sizes));
    }
}

// E8M0 scales that are no numbers, the format itself refuses.
void check_values(const QuantizedLinearWeights& weights) {
    for (const LayerArray& array : layer_arrays()) {
        if (!array.has_member() || array.form == ArrayForm::weight) continue;
        const Tensor& tensor = array.in(weights);
        if (!tensor.defined() || tensor.dtype() == DType::u8 || tensor.dtype() == DType::i32) continue;
        check_finite(weights, array.name, tensor.dtype() == DType::f32 ? tensor : tensor.to(DType::f32));
    }
}

void check_weight(const QuantizedLinearWeights& weights, const SchemeRow& scheme) {
    if (weights.weight.format != scheme.weight) {
        refuse(weights, fmt::format("the weight must be {}, got {}", to_string(scheme.weight),
                                    to_string(weights.weight.format)));
    }
    if (weights.weight.rows < 1 || weights.weight.columns < 1) {
        refuse(weights, "the weight needs at least one row and one column");
    }
    if (const auto wrong = format_row(scheme.weight).problem(weights.weight); !wrong.empty()) {
        refuse(weights, "weight: " + wrong);
    }
    const QuantizedTensor& weight = weights.weight;
    if (scheme.activation != Activation::none && weight.offset.defined()) {
        refuse(weights, "weight_offset must be zeros (weights are symmetric in this scheme)");
    }
    if (!scheme.groups && weight.scale.dtype() == DType::f32 && weight.scale.count() != weight.rows) {
        refuse(weights, fmt::format("weight_scale must be one per row in this scheme, got {}",
                                    weight.scale.describe()));
    }
}

void check_rotation(const QuantizedLinearWeights& weights) {
    const Tensor& rotation = weights.rotation;
    if (!rotation.defined()) return;
    const std::int64_t k = weights.weight.columns;
    const std::int64_t block = rotation.shape().size() == 2 ? rotation.dim(1) : 0;
    if (block < 1 || !std::has_single_bit(static_cast<std::uint64_t>(block)) || k % block != 0) {
        refuse(weights, fmt::format("rotation must be [{}/block,block] with a power of two as block, got {}",
                                    k, rotation.describe()));
    }
    check_array(weights, "rotation", rotation, DType::f32, {k / block, block});
    for (std::int64_t i = 0; i < k; ++i) {
        const float sign = rotation.as<float>()[i];
        if (sign != 1.0F && sign != -1.0F) {
            refuse(weights, fmt::format("rotation must hold 1 and -1, got {} at element {}", sign, i));
        }
    }
}

void check_low_rank(const QuantizedLinearWeights& weights) {
    const Tensor &l1 = weights.low_rank_l1, &l2 = weights.low_rank_l2;
    if (!l1.defined() && !l2.defined()) return;
    if (!l1.defined() || !l2.defined()) refuse(weights, "svd_lowrank_l1 and svd_lowrank_l2 go together");
    const std::int64_t rank = l1.shape().empty() ? 0 : l1.dim(0);
    const bool fits = rank > 0 && l1.shape() == Shape{rank, weights.weight.columns} &&
                      l2.shape() == Shape{weights.weight.rows, rank} && is_model_dtype(l1.dtype()) &&
                      is_model_dtype(l2.dtype());
    if (!fits) {
        refuse(weights,
               fmt::format("svd_lowrank_l1 and svd_lowrank_l2 must be f32, bf16 or f16 [r,{}] and "
                           "[{},r], got {} and {}",
                           weights.weight.columns, weights.weight.rows, l1.describe(), l2.describe()));
    }
}

void check_steps(const QuantizedLinearWeights& weights, const SchemeRow& scheme) {
    const std::int64_t entries = weights.steps();
    const bool needs_static = scheme.activation == Activation::per_tensor;
    const bool fits = !needs_static ? entries == 0 : (scheme.per_step ? entries >= 1 : entries == 1);
    if (!fits) {
        refuse(weights,
               fmt::format("needs {} static activation scales, got {}",
                           !needs_static ? "no" : (scheme.per_step ? "a step's" : "one set of"), entries));
    }
}

}  // namespace

void check_layer(const QuantizedLinearWeights& weights) {
    const SchemeRow& scheme = scheme_row("quantized_linear", weights.scheme);
    check_weight(weights, scheme);
    check_steps(weights, scheme);
    check_shapes(weights, scheme);
    check_rotation(weights);
    check_low_rank(weights);
    for (std::int64_t step = 0; step < weights.steps(); ++step) check_static(weights, step);
    check_values(weights);
}

}  // namespace aerogel
