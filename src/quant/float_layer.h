// From a float layer to what its quantized form stores: the step that files, models in memory and Python
// share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "aerogel/quantized_linear.h"
#include "aerogel/safetensors.h"
#include "quant/algorithms/algorithm.h"
#include "quant/schemes.h"

namespace aerogel {

/// A float layer of a model; bias may be undefined.
struct FloatLayer {
    std::string name;  ///< for errors; may be empty
    Tensor weight;     ///< f32, bf16 or f16 [n,k]
    Tensor bias;
    Tensor inputs = {};  ///< sampled rows [tokens,k], for algorithms that look at them
    std::optional<QuantizedTensor> as_stored =
        {};  ///< the weight as its file holds it, where it is quantized there
};

/// A group size that says: as the scheme has it.
inline constexpr std::int64_t kSchemeGroups = -1;

/// How the stored values of layers are chosen.
struct LayerChoices {
    std::string algorithm = "minmax";  ///< one of algorithms() or, with inputs, of input_algorithms()
    std::string smoothing = {};        ///< one of smoothings(), with inputs; empty: none
    WeightOptions weight;              ///< groups (or kSchemeGroups) and offsets, for schemes that have them
    /// Columns per transform, -1: as many as can be (of convrot 256 at most), 0: no rotation.
    std::int64_t rotation_block = 0;
    std::int64_t low_rank = 0;  ///< rank of the branch beside the quantized residual, 0: none
    RotationKind rotation_kind = RotationKind::hadamard;
    bool float32 = false;  ///< scales, and the weight that they are found of, whatever the model's type
};

/// The name of layers made so: "W4A4_MXFP4_SVD".
std::string quant_type_of(const SchemeRow& scheme, const LayerChoices& choices);
/// A scheme by a name that may have the suffixes of QuantType; they set the choices that are not made yet
/// (rank 32, the largest rotation). Errors as scheme_row(); InvalidArgument when the choices have another
/// rotation.
const SchemeRow& scheme_with_choices(std::string_view name, LayerChoices& choices);

/// What every float Linear must be that is quantized, whoever reads it: a float matrix with at least one row
/// and one column, and a float bias of one value per row, if any. InvalidArgument naming the layer.
void check_float_layer(const std::string& name, const TensorInfo& weight, const TensorInfo* bias);
/// The columns per scale of a layer with so many columns, 0 = whole row: the `chosen` ones, or for
/// kSchemeGroups those of the scheme, halved down to 32 until they divide the columns into several groups.
std::int64_t group_size_of(const SchemeRow& scheme, std::int64_t chosen, std::int64_t columns);

/// Bytes of a weight [n,k] in this scheme, of integers with the groups that the scheme has: values, and a
/// float32 scale per group.
std::size_t quantized_bytes(const SchemeRow& scheme, const Shape& shape);

/// InvalidArgument when the scheme has no such algorithm, groups, offsets or rotation.
void check_choices(const SchemeRow& scheme, const LayerChoices& choices);

/// InvalidArgument naming the layer when groups, rotation or rank do not fit a weight of this shape.
void check_fit(const std::string& layer, const Shape& shape, const LayerChoices& choices);

/// True when layers need recorded inputs.
bool needs_inputs(const SchemeRow& scheme, const LayerChoices& choices);

/// x as the packed weight meets it: times mul_scale, then rotated. f32 [tokens,k].
Tensor transformed_inputs(const Tensor& inputs, const QuantizedLinearWeights& weights);

/// The layer's weights without static scales: smoothed, then the low-rank part is taken off, and what remains
/// is rotated and quantized. InvalidArgument, naming the layer, when its weight or bias is not finite, inputs
/// are missing, or groups, rotation or rank do not fit its shape.
QuantizedLinearWeights quantize_float(const FloatLayer& layer, const SchemeRow& scheme,
                                      const LayerChoices& choices);

}  // namespace aerogel
