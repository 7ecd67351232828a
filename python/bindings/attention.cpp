// Attention on arrays: one call for all formats, calibrated scales, the formats' names, the rotation that
// goes with them.
#include "aerogel/attention.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "aerogel/block_mask.h"
#include "aerogel/error.h"
#include "base/cpu_features.h"
#include "bindings/arrays.h"
#include "bindings/attention_layout.h"
#include "bindings/bindings.h"
#include "bindings/calls.h"
#include "kernels/cpu/bf16_speed.h"
#include "quant/algorithms/hadamard.h"

namespace aerogel::python {
namespace {

using namespace nb::literals;
using MaybeArray = std::optional<Array>;
using MaybeMatrix = std::optional<DeviceArray>;
/// Query and key tokens of a block.
using MaskBlock = std::tuple<std::int64_t, std::int64_t>;

Tensor f32_of(const MaybeArray& array, const char* name) {
    return array ? adopt(*array, name).to(DType::f32) : Tensor();
}

void make_scales(AttentionScales* self, const Array& q_scale, const Array& k_scale, const Array& v_scale,
                 const MaybeArray& q_offset, const MaybeArray& k_offset, const MaybeArray& v_offset) {
    new (self) AttentionScales{f32_of(q_scale, "q_scale"),   f32_of(k_scale, "k_scale"),
                               f32_of(v_scale, "v_scale"),   f32_of(q_offset, "q_offset"),
                               f32_of(k_offset, "k_offset"), f32_of(v_offset, "v_offset")};
}

// The queries and keys that a mask is laid over.
struct MaskedArrays {
    const TensorView& q;
    const TensorView& k;
    AttentionLayout layout;
};

// Bytes [batch, heads, query blocks, key blocks] as a BlockMask. InvalidArgument, in the name of `op`, when
// they do not fit.
BlockMask mask_of(const Array& given, const MaskBlock& block, const char* op, const MaskedArrays& arrays) {
    const auto& [q, k, layout] = arrays;
    const std::string where = "[" + std::string(op) + "] ";
    if (q.shape.size() != 4 || k.shape.size() != 4) {
        throw InvalidArgument(where + "q, k and v must have 4 axes, got q " + q.describe() + ", k " +
                              k.describe());
    }
    const TensorView mask = view_of(given);
    const std::size_t heads = layout == AttentionLayout::bnsd ? 1 : 2, tokens = 3 - heads;
    BlockMask geometry;
    geometry.batch = q.dim(0);
    geometry.heads = q.dim(heads);
    geometry.q_len = q.dim(tokens);
    geometry.k_len = k.dim(tokens);
    std::tie(geometry.block_q, geometry.block_k) = block;
    const Shape wanted = {geometry.batch, geometry.heads, geometry.q_blocks(), geometry.k_blocks()};
    const bool bytes = mask.dtype == DType::boolean || mask.dtype == DType::u8 || mask.dtype == DType::i8;
    if (!bytes || mask.shape != wanted || !mask.contiguous()) {
        throw InvalidArgument(where + "mask must be contiguous bool, uint8 or int8 " + to_string(wanted) +
                              " (batch, heads, query blocks, key blocks), got " + mask.describe());
    }
    return BlockMask::from_dense(static_cast<const std::uint8_t*>(mask.data), geometry);
}

// With seq_len: sequences packed behind each other, [tokens, heads, head_dim].
void run(const DeviceArray& q, const DeviceArray& k, const DeviceArray& v, const OutArray& o,
         const std::string& layout, float scale, bool causal, const MaybeArray& mask, const MaskBlock& block,
         const std::string& format, bool smooth_k, std::int64_t q_tokens, std::int64_t k_tokens,
         const MaybeMatrix& q_rotation, const MaybeMatrix& k_rotation, const AttentionScales* scales,
         const std::optional<std::vector<std::int64_t>>& seq_len, std::int64_t v_tokens,
         std::int64_t v_channels, int mxfp4_scale_alg, float mxfp4_dst_type_max,
         const std::optional<OutArray>& lse, const MaybeMatrix& key_mask, std::uintptr_t stream) {
    AttentionOptions options;
    options.layout = layout_of(layout);
    options.scale = scale;
    options.causal = causal;
    options.format = attention_format_from("attention", format);
    options.smooth_k = smooth_k;
    options.q_tokens = q_tokens;
    options.k_tokens = k_tokens;
    options.v_tokens = v_tokens;
    options.v_channels = v_channels;
    options.mxfp4_scale = {mxfp4_scale_alg, mxfp4_dst_type_max};
    if (q_rotation) options.q_rotation = view_of(*q_rotation);
    if (k_rotation) options.k_rotation = view_of(*k_rotation);
    options.call.stream = reinterpret_cast<void*>(stream);
    options.scales = scales;
    if (lse) options.lse = view_of(*lse);
    if (key_mask) options.key_mask = view_of(*key_mask);
    const TensorView qv = view_of(q), kv = view_of(k), vv = view_of(v);
    const MutableView ov = view_of(o);
    std::optional<BlockMask> blocks;
    if (mask) {
        const char* op = options.format == AttentionFormat::none ? "attention" : "quantized_attention";
        options.mask = &blocks.emplace(mask_of(*mask, block, op, {qv, kv, options.layout}));
    }
    without_gil([&] {
        if (seq_len) {
            attention_packed({qv, kv, vv, ov, *seq_len}, options);
        } else {
            attention(qv, kv, vv, ov, options);
        }
    });
}

std::vector<std::string_view> static_types(const AttentionFormatRow& row) {
    std::vector<std::string_view> names(row.static_types.begin(), row.static_types.end());
    std::erase(names, "");
    return names;
}

// f32 [size, size], the R of x R.
nb::object rotation(std::int64_t size, std::int64_t seed) {
    const Rotation rotate(size, {RotationKind::hadamard, size}, seed);
    Tensor identity(DType::f32, {size, size});
    std::fill_n(identity.mutable_as<float>(), size * size, 0.0F);
    for (std::int64_t i = 0; i < size; ++i) identity.mutable_as<float>()[i * size + i] = 1.0F;
    return to_numpy(without_gil([&] { return rotate.rotated_inputs(identity); }));
}

}  // namespace

void bind_attention(nb::module_& module) {
    nb::class_<AttentionFormatRow>(module, "AttentionFormat", "What a format of attention is called.")
        .def_ro("name", &AttentionFormatRow::name)
        .def_ro("file_type", &AttentionFormatRow::file_type)
        .def_prop_ro("static_types", &static_types)
        .def_ro("strategy", &AttentionFormatRow::strategy)
        .def_ro("rotates", &AttentionFormatRow::rotates)
        .def_ro("needs_rotation", &AttentionFormatRow::needs_rotation);
    module.def(
        "multiplies_bf16",
        [] {
            const CpuLevel level = cpu_level();
            return level == CpuLevel::amx || (level == CpuLevel::avx512_bf16 && cpu::slow_bf16().empty());
        },
        "Whether attention multiplies bfloat16 with instructions for it, faster than float32.");
    module.def("attention_formats", [] {
        return std::vector<AttentionFormatRow>(kAttentionFormats.begin(), kAttentionFormats.end());
    });
    nb::class_<AttentionScales>(module, "AttentionScales", "Calibrated scales of int8, one per head.")
        .def("__init__", &make_scales, nb::kw_only(), "q_scale"_a, "k_scale"_a, "v_scale"_a,
             "q_offset"_a = nb::none(), "k_offset"_a = nb::none(), "v_offset"_a = nb::none());
    module.def("attention", &run, "q"_a, "k"_a, "v"_a, "o"_a, nb::kw_only(), "layout"_a, "scale"_a = 0.0F,
               "causal"_a = false, "mask"_a = nb::none(), "block"_a = MaskBlock(), "format"_a = "none",
               "smooth_k"_a = true, "q_tokens"_a = 0, "k_tokens"_a = 0, "q_rotation"_a = nb::none(),
               "k_rotation"_a = nb::none(), "scales"_a = nb::none(), "seq_len"_a = nb::none(),
               "v_tokens"_a = 0, "v_channels"_a = 0, "mxfp4_scale_alg"_a = 0, "mxfp4_dst_type_max"_a = 0.0F,
               "lse"_a = nb::none(), "key_mask"_a = nb::none(), "stream"_a = 0);
    module.def("hadamard_rotation", &rotation, "size"_a, "seed"_a,
               "diag(signs) H / sqrt(size), f32 [size, size]; size a power of two, seed -1 for no signs.");
}

}  // namespace aerogel::python
