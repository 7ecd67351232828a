// RainFusion 2 and 3 (arXiv 2512.24086): the mean query of a cell against the mean keys of all cells tells
// which cells matter. The contract ranks softmax(scale * q k^T); softmax and a positive scale keep the
// order of a row, so the plain products are ranked: no exp, and no ties made by underflow.
#include <algorithm>
#include <cmath>

#include "kernels/softmax_numerators.h"
#include "ops/planning.h"
#include "sparse/plan_scratch.h"
#include "sparse/plan_tables.h"

namespace aerogel {
namespace {

std::int64_t kept_cells(std::int64_t cells, double sparsity) {
    const auto kept = static_cast<std::int64_t>(std::ceil(static_cast<double>(cells) * (1.0 - sparsity)));
    return std::clamp<std::int64_t>(kept, 1, cells);
}

// Of means on the host, whose panels end in anything.
bool are_finite(const CellMeansArgs& args) {
    const std::int64_t dim = args.rows.head_dim;
    const auto finite = [&](std::int64_t begin, std::int64_t count) {
        return all_finite(args.means + begin, static_cast<std::size_t>(count));
    };
    if (!args.panels) return finite(0, args.rows.maps * args.count * dim);
    const std::int64_t in_last = args.count % kKeyPanel, in_whole = args.count - in_last;
    for (std::int64_t map = 0; map < args.rows.maps; ++map) {
        const std::int64_t begin = map * in_panels(args.count) * dim, last = begin + in_whole * dim;
        if (!finite(begin, in_whole * dim)) return false;
        for (std::int64_t d = 0; d < dim; ++d)
            if (!finite(last + d * kKeyPanel, in_last)) return false;
    }
    return true;
}

void block_mean_cells(const ContentInput& input, std::uint8_t* grid) {
    const PlanTables& tables = input.tables;
    const PlanningKernels& kernels = planning_kernels(tables.device);
    const auto rows = static_cast<std::int64_t>(tables.q.cells.size()),
               columns = static_cast<std::int64_t>(tables.k.cells.size());
    const std::int64_t dim = input.q.head_dim, padded = in_panels(columns),
                       group = input.q.heads / input.k.heads;
    const auto floats = static_cast<std::size_t>(dim * (group * rows + padded) + group * rows * padded);
    const std::int64_t most = maps_at_once(input.k.maps(), floats * sizeof(float));
    void* const stream = input.context.stream;
    PlanScratch scratch(static_cast<std::size_t>(most) * floats * sizeof(float), tables.device);
    for (std::int64_t first = 0; first < input.k.maps(); first += most) {
        const std::int64_t kv_maps = std::min(most, input.k.maps() - first), maps = kv_maps * group;
        scratch.reuse();
        const CellMeansArgs of_q = {input.q.planning_rows(first * group, maps),
                                    values_of<IndexRange>(tables.q.ranges),
                                    rows,
                                    false,
                                    scratch.take<float>(maps * rows * dim),
                                    stream};
        const CellMeansArgs of_k = {input.k.planning_rows(first, kv_maps),
                                    values_of<IndexRange>(tables.k.ranges),
                                    columns,
                                    true,
                                    scratch.take<float>(kv_maps * padded * dim),
                                    stream};
        kernels.cell_means(of_q);
        kernels.cell_means(of_k);
        if (tables.device == Device::cpu && !(are_finite(of_q) && are_finite(of_k)))
            fail_not_finite(input.q, input.k);
        const MeanProductsArgs products = {of_q.means, of_k.means, scratch.take<float>(maps * rows * padded),
                                           maps,       group,      rows,
                                           columns,    dim,        stream};
        kernels.mean_products(products);
        kernels.keep_best({products.scores, values_of<std::uint8_t>(tables.q.kept),
                           values_of<std::uint8_t>(tables.k.kept), grid + first * group * rows * columns,
                           maps, rows, columns, kept_cells(columns, input.pattern.sparsity), stream});
    }
}

}  // namespace

namespace head_patterns {
extern const HeadPattern kBlockMean = {.name = "block_mean",
                                       .q_order = windowed_order,
                                       .k_order = windowed_order,
                                       .cells = pooled_cells,
                                       .content_cells = block_mean_cells};
}  // namespace head_patterns

}  // namespace aerogel
