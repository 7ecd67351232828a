// The table of the arrays that a quantized layer stores: name, place in the files, member, type, shape, and
// when it is there. Files, checks, reports and state dicts read it, so that a new array is one row.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "aerogel/quantized_linear.h"
#include "aerogel/safetensors.h"
#include "quant/schemes.h"

namespace aerogel {

/// What shapes are made of; 0 where a layer has no such thing.
struct ArraySizes {
    std::int64_t n = 0, k = 0;
    std::int64_t groups = 1;       ///< scales of a row
    std::int64_t dual_blocks = 0;  ///< second scales of a row
    std::int64_t rotation_block = 0;
    std::int64_t rank = 0;
    std::int64_t steps = 0;  ///< sets of static scales
};

/// Parts of a layer that are there or not, whatever its scheme.
struct LayerParts {
    bool bias = false, rotation = false, low_rank = false, smoothing = false, column_order = false;
};

/// How values lie in files. In memory all are f32 but `integers`, `factors` (f32, bf16 or f16) and what
/// belongs to the weight's format.
enum class ArrayForm : std::uint8_t {
    weight,      ///< as the format says; four bits in several layouts
    scale,       ///< one per row or group, or E8M0 bytes
    offset,      ///< as scale; zeros where it is not there
    dual_scale,  ///< f32 [n,blocks,1]
    floats,      ///< in the model's type, or f32
    whole,       ///< floats, read from integers too
    integers,    ///< i32
    bits,        ///< f32, or the same bits in i64
    signs,       ///< i8
    factors,     ///< in the model's type
    ignored      ///< known by name only
};

struct LayerArray {
    std::string_view name;        ///< in state dicts, messages, and behind "<layer>." in files:
    std::string_view group = {};  ///< "div." of "<layer>.div.mul_scale"
    ArrayForm form = ArrayForm::floats;
    Tensor QuantizedLinearWeights::*own = nullptr;  ///< its member, or
    Tensor QuantizedTensor::*of_weight = nullptr;   ///< that of the weight
    Shape (*shape)(const ArraySizes&) = nullptr;    ///< in memory, of one step
    bool by_step = false;                           ///< [steps, ...] in memory
    bool (*of_scheme)(const SchemeRow&) = nullptr;  ///< the schemes that have it; null: all
    bool LayerParts::*part = nullptr;               ///< the part it belongs to; null: the product itself
    bool unnamed = false;                           ///< files may hold it without a word in the layer's type
    bool outer = false;      ///< beside "<layer>.linear" of a smoothed layer, not in it
    bool is_float = false;   ///< FLOAT in descriptions, whatever the layer's type
    bool from_data = false;  ///< a float weight alone does not give it

    bool fits(const SchemeRow& scheme) const { return of_scheme == nullptr || of_scheme(scheme); }
    /// Numbers whose type and shape say all about them.
    bool is_plain() const {
        return form == ArrayForm::floats || form == ArrayForm::whole || form == ArrayForm::integers ||
               form == ArrayForm::bits;
    }
    bool has_member() const { return own != nullptr || of_weight != nullptr; }
    Tensor& in(QuantizedLinearWeights& layer) const {
        return own != nullptr ? layer.*own : layer.weight.*of_weight;
    }
    const Tensor& in(const QuantizedLinearWeights& layer) const {
        return own != nullptr ? layer.*own : layer.weight.*of_weight;
    }
    /// In memory.
    Shape whole_shape(const ArraySizes& sizes) const;
};

/// In the order of the files; the weight first.
std::span<const LayerArray> layer_arrays();
const LayerArray& layer_array(std::string_view name);

/// "<layer>.div.mul_scale", "<layer>.linear.weight" of a smoothed layer. `prefix` is that of the weight.
std::string stored_name(const LayerArray& array, const std::string& layer, const std::string& prefix);

/// The transforms of a layer that has a rotation.
RotationShape rotation_of(const QuantizedLinearWeights& layer);

/// As the layer's own arrays tell.
ArraySizes sizes_of(const QuantizedLinearWeights& layer);

/// A layer as named arrays, which state dicts hold: shapes and types as in memory, but factors as f32.
using NamedArrays = std::vector<std::pair<std::string, Tensor>>;
NamedArrays named_arrays(const QuantizedLinearWeights& layer);

/// Sets `check_intact` where an array is a view of one of these tensors of the file.
void watch_file(QuantizedLinearWeights& layer, const SafetensorsFile& file,
                std::span<const std::string> tensors);

/// What the arrays alone do not tell.
struct LayerMeaning {
    std::string scheme;  ///< with the suffixes of QuantType or without
    std::int64_t in_features = 0;
    std::int64_t group_size = 0;
};
/// The way back; it shares the arrays. Types of eight bits may come as bytes. InvalidArgument for names that
/// are not in the table and a weight that is no matrix; check_layer() says whether the rest fits.
QuantizedLinearWeights layer_of_arrays(const LayerMeaning& meaning, const NamedArrays& arrays);

/// Whether a layer's arrays fit its scheme: InvalidArgument when one is missing, has the wrong type or shape,
/// or a scale is not finite; Unsupported for a scheme that is not supported.
void check_layer(const QuantizedLinearWeights& weights);

}  // namespace aerogel
