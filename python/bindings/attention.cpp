// Dense and sparse attention on arrays.
#include "aerogel/attention.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <array>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "aerogel/error.h"
#include "aerogel/sparse_attention.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"

namespace aerogel::python {
namespace {

AttentionLayout layout_of(const std::string& name) {
    if (name == "BNSD") return AttentionLayout::bnsd;
    if (name == "BSND") return AttentionLayout::bsnd;
    throw InvalidArgument("[attention] the layout must be BNSD or BSND, got " + name);
}

// A mask as Python gives it: bytes [batch, heads, q_blocks, k_blocks] and the tokens of a block.
struct GivenMask {
    Array blocks;
    std::int64_t block_q = 0;
    std::int64_t block_k = 0;
};

// The mask laid over q and k.
BlockMask block_mask(const GivenMask& given, const TensorView& q, const TensorView& k,
                     AttentionLayout layout) {
    if (q.shape.size() != 4 || k.shape.size() != 4) {
        throw InvalidArgument("[attention] q, k and v must have 4 axes, got q " + q.describe() + ", k " +
                              k.describe());
    }
    const TensorView mask = view_of(given.blocks);
    const std::size_t heads = layout == AttentionLayout::bnsd ? 1 : 2, tokens = 3 - heads;
    BlockMask geometry;
    geometry.batch = q.dim(0);
    geometry.heads = q.dim(heads);
    geometry.q_len = q.dim(tokens);
    geometry.k_len = k.dim(tokens);
    geometry.block_q = given.block_q;
    geometry.block_k = given.block_k;
    const Shape wanted = {geometry.batch, geometry.heads, geometry.q_blocks(), geometry.k_blocks()};
    const bool bytes = mask.dtype == DType::boolean || mask.dtype == DType::u8 || mask.dtype == DType::i8;
    if (!bytes || mask.shape != wanted || !mask.contiguous()) {
        throw InvalidArgument("[attention] mask must be contiguous bool, uint8 or int8 " + to_string(wanted) +
                              " (batch, heads, query blocks, key blocks), got " + mask.describe());
    }
    return BlockMask::from_dense(static_cast<const std::uint8_t*>(mask.data), geometry);
}

// options: layout, scale, causal, and mask with block = (block_q, block_k) where blocks are hidden.
void dense(const Array& q, const Array& k, const Array& v, const OutArray& o, const nb::dict& given) {
    AttentionOptions options;
    options.layout = layout_of(nb::cast<std::string>(given["layout"]));
    options.scale = nb::cast<float>(given["scale"]);
    options.causal = nb::cast<bool>(given["causal"]);
    const TensorView qv = view_of(q), kv = view_of(k), vv = view_of(v), ov = view_of(o);
    BlockMask blocks;
    if (given.contains("mask")) {
        const auto [block_q, block_k] = nb::cast<std::tuple<std::int64_t, std::int64_t>>(given["block"]);
        blocks = block_mask({nb::cast<Array>(given["mask"]), block_q, block_k}, qv, kv, options.layout);
        options.mask = &blocks;
    }
    const nb::gil_scoped_release unlocked;
    attention(qv, kv, vv, ov, options);
}

nb::dict report_of(const SparseReport& report) {
    nb::dict out;
    nb::list heads;
    for (const HeadReport& head : report.heads) {
        nb::dict one;
        one["type"] = std::string(to_string(head.type));
        one["recall"] = head.recall;
        one["density"] = head.density;
        if (head.recalls != HeadReport().recalls) {
            nb::dict recalls;
            constexpr std::array kKinds = {HeadType::spatial, HeadType::temporal, HeadType::textural};
            for (std::size_t i = 0; i < kKinds.size(); ++i)
                recalls[std::string(to_string(kKinds[i])).c_str()] = head.recalls[i];
            one["recalls"] = recalls;
        }
        heads.append(one);
    }
    out["heads"] = heads;
    out["density"] = report.density();
    out["predict_seconds"] = report.predict_seconds;
    out["attention_seconds"] = report.attention_seconds;
    out["dense_because"] = report.dense_because;
    if (report.mask.defined()) out["mask"] = to_numpy(report.mask);
    return out;
}

LatentShape latent_of(const nb::handle& shape) {
    const auto [frames, height, width] =
        nb::cast<std::tuple<std::int64_t, std::int64_t, std::int64_t>>(shape);
    return {frames, height, width};
}

// The options a Python call names; those it does not name keep their defaults. `arrays` keeps the given ones
// alive.
SparseOptions sparse_options(const nb::dict& given, std::vector<Array>& arrays) {
    SparseOptions options;
    const auto take = [&](const char* name, auto& value) {
        if (given.contains(name)) value = nb::cast<std::remove_reference_t<decltype(value)>>(given[name]);
    };
    const auto take_array = [&](const char* name, TensorView& view) {
        if (given.contains(name)) view = view_of(arrays.emplace_back(nb::cast<Array>(given[name])));
    };
    options.type = sparse_type_from(nb::cast<std::string>(given["sparse_type"]));
    options.layout = layout_of(nb::cast<std::string>(given["layout"]));
    options.precision = sparse_precision_from(nb::cast<std::string>(given["precision"]));
    if (given.contains("latent_shape")) options.latent_shape = latent_of(given["latent_shape"]);
    if (given.contains("latent_shape_k")) options.latent_shape_k = latent_of(given["latent_shape_k"]);
    if (given.contains("spans")) {
        for (const nb::handle span : given["spans"])
            options.spans.push_back({nb::cast<std::int64_t>(span[0]), latent_of(span[1])});
    }
    take("sparsity", options.sparsity);
    take("txt_len", options.txt_len);
    take("txt_first", options.txt_first);
    take("block_size", options.block_size);
    take("block_size_k", options.block_size_k);
    take("protect_first_frame", options.protect_first_frame);
    take("min_recall", options.min_recall);
    take("scale", options.scale);
    take("is_causal", options.is_causal);
    take("keep_sink", options.keep_sink);
    take("keep_recent", options.keep_recent);
    take("cdf_threshold", options.cdf_threshold);
    take("return_mask", options.return_mask);
    take_array("q_rotation", options.q_rotation);
    take_array("k_rotation", options.k_rotation);
    take_array("mask", options.mask);
    return options;
}

nb::dict sparse(const Array& q, const Array& k, const Array& v, const OutArray& o, const nb::dict& given) {
    std::vector<Array> arrays;
    const SparseOptions options = sparse_options(given, arrays);
    const TensorView qv = view_of(q), kv = view_of(k), vv = view_of(v), ov = view_of(o);
    SparseReport report;
    {
        const nb::gil_scoped_release unlocked;
        report = sparse_attention(qv, kv, vv, ov, options);
    }
    return report_of(report);
}

}  // namespace

void bind_attention(nb::module_& module) {
    module.def("attention", &dense, nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("o"),
               nb::arg("options"));
    module.def("sparse_attention", &sparse, nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("o"),
               nb::arg("options"));
}

}  // namespace aerogel::python
