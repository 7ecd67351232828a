// One sparse attention call, for tests/sparse: sparse_dump REQUEST.json INPUTS.safetensors
// OUTPUT.safetensors. INPUTS holds q, k, v, whose last axis may be longer than the request's head_dim (the
// rest is margin); OUTPUT gets o with the same margins, prefilled with NaN, and unless the call stayed dense
// the mask and the token orders. The report is printed as JSON.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "aerogel/error.h"
#include "aerogel/number_types.h"
#include "aerogel/safetensors.h"
#include "sparse/trace.h"

namespace {

using aerogel::DType;
using aerogel::Tensor;
using aerogel::TensorView;
using nlohmann::json;

aerogel::SparseOptions options_from(const json& request) {
    aerogel::SparseOptions options;
    options.type = aerogel::sparse_type_from(request.at("type").get<std::string>());
    options.layout =
        request.at("layout") == "BNSD" ? aerogel::AttentionLayout::bnsd : aerogel::AttentionLayout::bsnd;
    options.sparsity = request.at("sparsity");
    const auto latent = request.at("latent_shape").get<std::vector<std::int64_t>>();
    options.latent_shape = {latent.at(0), latent.at(1), latent.at(2)};
    options.txt_len = request.at("txt_len");
    options.block_size = request.at("block_size");
    options.protect_first_frame = request.value("protect_first_frame", true);
    options.min_recall = request.value("min_recall", 0.0);
    options.scale = request.value("scale", 0.0F);
    return options;
}

// The first head_dim columns of a wider array.
TensorView without_margin(const TensorView& wide, std::int64_t head_dim) {
    TensorView view = wide;
    view.strides = {wide.dim(1) * wide.dim(2) * wide.dim(3), wide.dim(2) * wide.dim(3), wide.dim(3), 1};
    view.shape[3] = head_dim;
    return view;
}

Tensor filled_with_nan(const TensorView& like) {
    const Tensor tensor(like.dtype, like.shape);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    for (std::int64_t i = 0; i < tensor.count(); ++i) {
        if (like.dtype == DType::f32) {
            tensor.as<float>()[i] = nan;
        } else {
            tensor.as<aerogel::BFloat16>()[i] = aerogel::to_bfloat16(nan);
        }
    }
    return tensor;
}

void add_trace(const aerogel::SparseTrace& trace, std::map<std::string, Tensor>& results) {
    const auto& mask = trace.mask;
    const auto dense = mask.to_dense();
    const Tensor grid(DType::u8, {mask.batch, mask.heads, mask.q_blocks(), mask.k_blocks()});
    std::memcpy(grid.data(), dense.data(), dense.size());
    results["mask"] = grid;
    const auto maps = static_cast<std::int64_t>(trace.layouts.size());
    const Tensor q_order(DType::i32, {maps, mask.q_len});
    const Tensor k_order(DType::i32, {maps, mask.k_len});
    for (std::size_t map = 0; map < trace.layouts.size(); ++map) {
        const auto place = static_cast<std::ptrdiff_t>(map) * mask.q_len;
        std::copy(trace.layouts[map].q.begin(), trace.layouts[map].q.end(),
                  q_order.as<std::int32_t>() + place);
        std::copy(trace.layouts[map].k.begin(), trace.layouts[map].k.end(),
                  k_order.as<std::int32_t>() + place);
    }
    results["q_order"] = q_order;
    results["k_order"] = k_order;
}

json to_json(const aerogel::SparseReport& report) {
    json result = {{"dense_because", report.dense_because}, {"density", report.density()}};
    for (const auto& head : report.heads)
        result["heads"].push_back(
            {{"type", aerogel::to_string(head.type)}, {"recall", head.recall}, {"density", head.density}});
    return result;
}

void run(char** argv) {
    std::ifstream file(argv[1]);
    const json request = json::parse(file);
    const auto inputs = aerogel::SafetensorsFile::open(argv[2]);
    const std::int64_t head_dim = request.at("head_dim");
    const Tensor q = inputs.tensor("q");
    const Tensor k = inputs.tensor("k");
    const Tensor v = inputs.tensor("v");
    const Tensor o = filled_with_nan(q.view());
    const aerogel::SparseArrays call{without_margin(q, head_dim), without_margin(k, head_dim),
                                     without_margin(v, head_dim), without_margin(o, head_dim)};
    aerogel::SparseTrace trace;
    const auto report = aerogel::traced_sparse_attention(call, options_from(request), &trace);
    std::map<std::string, Tensor> results = {{"o", o}};
    if (report.dense_because.empty()) add_trace(trace, results);
    aerogel::save_safetensors(argv[3], results);
    std::printf("%s\n", to_json(report).dump().c_str());
}

}  // namespace

int main(int argc, char** argv) {
    try {
        if (argc != 4) throw aerogel::InvalidArgument("usage: sparse_dump REQUEST INPUTS OUTPUT");
        run(argv);
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
