// Adaptive block sparse attention: scores of a strided attention map, whose every product sums an
// antidiagonal of 8 x 8 products (XAttention, arXiv 2503.16428), and per row of blocks the fewest that reach
// a share of the attention. The arithmetic is written down in docs/sparse_attention.md.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "aerogel/linear.h"
#include "base/thread_pool.h"
#include "ops/planning.h"
#include "sparse/plan_scratch.h"
#include "sparse/plan_tables.h"

namespace aerogel {
namespace {

constexpr std::int64_t kChunkRows = 512;  // strided query rows scored at a time on the CPU

// [strided(tokens), 8*head_dim] of one map, in its type: each row holds 8 consecutive tokens, in order or
// reversed; tokens that are not there are zeros.
Tensor strided_rows(const HeadRows& x, std::int64_t map, bool reversed) {
    const std::int64_t rows = strided(x.tokens);
    const MapRows tokens = x.rows(map);
    Tensor out(x.dtype, {rows, kPlanningStride * x.head_dim});
    auto* const to = static_cast<std::byte*>(out.mutable_data());
    const std::size_t bytes = static_cast<std::size_t>(x.head_dim) * size_of(x.dtype);
    parallel_for(rows, [&](std::int64_t row, int) {
        for (std::int64_t t = 0; t < kPlanningStride; ++t) {
            const std::int64_t token = row * kPlanningStride + t;
            const std::int64_t place = row * kPlanningStride + (reversed ? kPlanningStride - 1 - t : t);
            std::byte* const at = to + static_cast<std::size_t>(place) * bytes;
            if (token < x.tokens) {
                std::memcpy(at, tokens.at(token), bytes);
            } else {
                std::memset(at, 0, bytes);
            }
        }
    });
    return out;
}

// The scores of one map by a float Linear of the CPU, which multiplies bf16 in that type where it can.
class LinearScores {
  public:
    LinearScores(const ContentInput& input, std::int64_t map)
        : keys_(strided_rows(input.k, kv_map(input.q, input.k, map), false), Tensor()),
          queries_(strided_rows(input.q, map, true)) {}

    void put(std::int64_t first_row, const MutableView& scores) {
        const std::int64_t width = queries_.dim(1);
        const auto bytes_of_row = static_cast<std::int64_t>(size_of(queries_.dtype())) * width;
        keys_.forward({queries_.dtype(),
                       {scores.dim(0), width},
                       static_cast<const std::byte*>(queries_.data()) + first_row * bytes_of_row},
                      scores, {});
    }

  private:
    FloatLinear keys_;
    Tensor queries_;
};

// Some rows of blocks of some maps, which are scored at a time.
class SharePass {
  public:
    SharePass(const ContentInput& input, std::uint8_t* grid)
        : input_(input), kernels_(planning_kernels(input.tables.device)), grid_(grid) {
        blocks_.q_len = input.q.tokens;
        blocks_.k_len = input.k.tokens;
        blocks_.block = input.pattern.block_size;
        blocks_.causal = input.causal;
        all_blocks_ = static_cast<std::int64_t>(input.tables.q.cells.size());
        group_ = input.q.heads / input.k.heads;
    }

    // One map after the other, some rows of it at a time.
    void run_on_cpu() {
        const std::int64_t each = blocks_.block / kPlanningStride;
        const std::int64_t most = std::min(std::max<std::int64_t>(kChunkRows / each, 1), all_blocks_);
        PlanScratch scratch(bytes_of(most), Device::cpu);
        blocks_.maps = 1;
        for (std::int64_t map = 0; map < input_.q.maps(); ++map) {
            LinearScores scores(input_, map);
            for (blocks_.first_block = 0; blocks_.first_block < all_blocks_; blocks_.first_block += most) {
                blocks_.q_blocks = std::min(most, all_blocks_ - blocks_.first_block);
                scratch.reuse();
                auto* to = scratch.take<float>(blocks_.rows() * keys());
                scores.put(blocks_.first_row(), {DType::f32, {blocks_.rows(), keys()}, to});
                choose(map, to, scratch);
            }
        }
    }

    // Maps that share keys at a time, as many rows and maps as there is memory for.
    void run_on_device() {
        const std::size_t bytes_of_block = bytes_of(1) * static_cast<std::size_t>(group_);
        const std::int64_t most = maps_at_once(all_blocks_, bytes_of_block);
        const std::int64_t maps =
            most < all_blocks_
                ? 1
                : maps_at_once(input_.k.maps(), bytes_of(all_blocks_) * static_cast<std::size_t>(group_));
        PlanScratch scratch(bytes_of(most) * static_cast<std::size_t>(maps * group_), input_.tables.device);
        for (std::int64_t first = 0; first < input_.k.maps(); first += maps) {
            const std::int64_t kv_maps = std::min(maps, input_.k.maps() - first);
            blocks_.maps = kv_maps * group_;
            for (blocks_.first_block = 0; blocks_.first_block < all_blocks_; blocks_.first_block += most) {
                blocks_.q_blocks = std::min(most, all_blocks_ - blocks_.first_block);
                scratch.reuse();
                auto* to = scratch.take<float>(blocks_.maps * blocks_.rows() * keys());
                kernels_.strided_products({input_.q.planning_rows(first * group_, blocks_.maps),
                                           input_.k.planning_rows(first, kv_maps), group_,
                                           blocks_.first_row(), blocks_.rows(), to, input_.context.stream});
                choose(first * group_, to, scratch);
            }
        }
    }

  private:
    std::int64_t keys() const { return strided(blocks_.k_len); }

    // Scratch of so many rows of blocks of one map.
    std::size_t bytes_of(std::int64_t q_blocks) const {
        const std::int64_t rows = q_blocks * (blocks_.block / kPlanningStride), columns = blocks_.k_blocks();
        const std::int64_t floats = (rows * keys() + 1) / 2 * 2,
                           doubles = (rows + q_blocks) * columns + q_blocks * ranked_size(columns);
        return static_cast<std::size_t>(floats * 4 + doubles * 8 + 8);
    }

    void choose(std::int64_t first_map, float* scores, PlanScratch& scratch) {
        const std::int64_t columns = blocks_.k_blocks();
        BlockSharesArgs shares;
        shares.blocks = blocks_;
        shares.scores = scores;
        shares.factor = input_.scale / static_cast<float>(kPlanningStride);
        scratch.align(sizeof(double));
        shares.parts = scratch.take<double>(blocks_.maps * blocks_.rows() * columns);
        shares.sums = scratch.take<double>(blocks_.maps * blocks_.q_blocks * columns);
        shares.stream = input_.context.stream;
        kernels_.block_shares(shares);
        const auto is_nan = [](double share) { return std::isnan(share); };
        if (input_.tables.device == Device::cpu &&
            std::any_of(shares.sums, shares.sums + blocks_.q_blocks * columns, is_nan))
            fail_not_finite(input_.q, input_.k);
        KeepSharesArgs keep;
        keep.blocks = blocks_;
        keep.sums = shares.sums;
        keep.ranked = scratch.take<double>(blocks_.maps * blocks_.q_blocks * ranked_size(columns));
        keep.q_kept = values_of<std::uint8_t>(input_.tables.q.kept);
        keep.k_kept = values_of<std::uint8_t>(input_.tables.k.kept);
        keep.cdf_threshold = input_.pattern.cdf_threshold;
        keep.sparsity = input_.pattern.sparsity;
        keep.keep_sink = input_.pattern.keep_sink;
        keep.keep_recent = input_.pattern.keep_recent;
        keep.grid = grid_ + first_map * all_blocks_ * columns;
        keep.stream = input_.context.stream;
        kernels_.keep_shares(keep);
    }

    const ContentInput& input_;
    const PlanningKernels& kernels_;
    std::uint8_t* grid_;
    StridedBlocks blocks_;
    std::int64_t all_blocks_ = 0, group_ = 1;
};

void antidiagonal_cells(const ContentInput& input, std::uint8_t* grid) {
    SharePass pass(input, grid);
    if (planning_kernels(input.tables.device).strided_products == nullptr) {
        pass.run_on_cpu();
    } else {
        pass.run_on_device();
    }
}

}  // namespace

namespace head_patterns {
extern const HeadPattern kAntidiagonal = {
    .name = "antidiagonal", .cells = natural_cells, .content_cells = antidiagonal_cells, .strides = true};
}  // namespace head_patterns

}  // namespace aerogel
