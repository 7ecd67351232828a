// Dense and sparse attention on arrays.
#include "aerogel/attention.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <string>
#include <tuple>

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

// options: layout, scale, and mask with block = (block_q, block_k) where blocks are hidden.
void dense(const Array& q, const Array& k, const Array& v, const Array& o, const nb::dict& given) {
    AttentionOptions options;
    options.layout = layout_of(nb::cast<std::string>(given["layout"]));
    options.scale = nb::cast<float>(given["scale"]);
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
        heads.append(one);
    }
    out["heads"] = heads;
    out["density"] = report.density();
    out["predict_seconds"] = report.predict_seconds;
    out["attention_seconds"] = report.attention_seconds;
    out["dense_because"] = report.dense_because;
    return out;
}

nb::dict sparse(const Array& q, const Array& k, const Array& v, const Array& o, const nb::dict& given) {
    SparseOptions options;
    options.type = sparse_type_from(nb::cast<std::string>(given["sparse_type"]));
    options.layout = layout_of(nb::cast<std::string>(given["layout"]));
    options.sparsity = nb::cast<double>(given["sparsity"]);
    const auto [frames, height, width] =
        nb::cast<std::tuple<std::int64_t, std::int64_t, std::int64_t>>(given["latent_shape"]);
    options.latent_shape = {frames, height, width};
    options.txt_len = nb::cast<std::int64_t>(given["txt_len"]);
    options.block_size = nb::cast<std::int64_t>(given["block_size"]);
    options.protect_first_frame = nb::cast<bool>(given["protect_first_frame"]);
    options.min_recall = nb::cast<double>(given["min_recall"]);
    options.scale = nb::cast<float>(given["scale"]);
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
