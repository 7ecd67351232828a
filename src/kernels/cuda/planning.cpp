// The planning row of CUDA: grids and launches.
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/planning_args.h"

namespace aerogel::cuda {

extern const Image kPlanningImage;

namespace {

const Kernel kCellMeans[] = {{kPlanningImage, "aerogel_cell_means_f32"},
                             {kPlanningImage, "aerogel_cell_means_bf16"},
                             {kPlanningImage, "aerogel_cell_means_f16"}};
const Kernel kStridedProducts[] = {{kPlanningImage, "aerogel_strided_products_f32"},
                                   {kPlanningImage, "aerogel_strided_products_bf16"},
                                   {kPlanningImage, "aerogel_strided_products_f16"}};
const Kernel kStridedParts{kPlanningImage, "aerogel_strided_parts"},
    kJoinParts{kPlanningImage, "aerogel_join_parts"}, kKeepShares{kPlanningImage, "aerogel_keep_shares"};
const Kernel kMeanProducts{kPlanningImage, "aerogel_mean_products"},
    kKeepBest{kPlanningImage, "aerogel_keep_best"}, kBlockLists{kPlanningImage, "aerogel_block_lists"},
    kSampleShares{kPlanningImage, "aerogel_sample_shares"},
    kChooseTypes{kPlanningImage, "aerogel_choose_types"},
    kSampleErrors{kPlanningImage, "aerogel_sample_errors"},
    kChooseByError{kPlanningImage, "aerogel_choose_by_error"}, kFanOut{kPlanningImage, "aerogel_fan_out"},
    kKeptScores{kPlanningImage, "aerogel_kept_scores"}, kPlaceCells{kPlanningImage, "aerogel_place_cells"};

std::int64_t parts(std::int64_t count, std::int64_t part) {
    return (count + part - 1) / part;
}

Grid threads_for(std::int64_t count) {
    return {{static_cast<unsigned>(parts(count, kPlanningThreads))}, {kPlanningThreads}};
}

Grid warps_for(std::int64_t count) {
    return threads_for(32 * count);
}

std::size_t place_of(DType dtype) {
    return dtype == DType::bf16 ? 1 : dtype == DType::f16 ? 2 : 0;
}

void cell_means(const CellMeansArgs& args) noexcept {
    const std::size_t type = place_of(args.rows.dtype);
    const unsigned threads = args.rows.head_dim <= 64 ? 64 : kMeanThreads;
    launch(kCellMeans[type], {{static_cast<unsigned>(args.rows.maps * args.count)}, {threads}}, args.stream,
           args);
}

void mean_products(const MeanProductsArgs& args) noexcept {
    const std::int64_t blocks =
        args.maps * parts(args.rows, kProductRows) * parts(args.keys, kKeyPanel * kProductWarps);
    const auto shared = static_cast<std::size_t>(kProductRows * args.head_dim) * sizeof(float);
    launch(kMeanProducts, {{static_cast<unsigned>(blocks)}, {kProductWarps * 32}, shared}, args.stream, args);
}

void keep_best(const KeepBestArgs& args) noexcept {
    launch(kKeepBest, warps_for(args.maps * args.rows), args.stream, args);
}

void place_cells(const PlaceCellsArgs& args) noexcept {
    launch(kPlaceCells, threads_for(args.maps * args.rows * args.columns), args.stream, args);
}

void block_lists(const BlockListsArgs& args) noexcept {
    launch(kBlockLists, warps_for(args.maps * args.q_blocks), args.stream, args);
}

void sample_recalls(const SampleRecallsArgs& args) noexcept {
    launch(kSampleShares, warps_for(args.maps * args.queries), args.stream, args);
    launch(kChooseTypes, threads_for(args.maps), args.stream, args);
}

void sample_errors(const SampleErrorsArgs& args) noexcept {
    const auto rows = static_cast<unsigned>(args.maps * args.queries);
    const auto shared = static_cast<std::size_t>(args.types * args.head_dim) * sizeof(double);
    launch(kSampleErrors, {{rows}, {kPlanningThreads}, shared}, args.stream, args);
    launch(kChooseByError, threads_for(args.maps), args.stream, args);
}

void fan_out(const FanOutArgs& args) noexcept {
    launch(kFanOut, threads_for(args.maps * args.q_blocks), args.stream, args);
}

void kept_scores(const KeptScoresArgs& args) noexcept {
    launch(kKeptScores, warps_for(args.maps), args.stream, args);
}

void strided_products(const StridedProductsArgs& args) noexcept {
    const std::int64_t tiles =
        args.q.maps * parts(args.rows, kStridedTile) * parts(strided(args.k.tokens), kStridedTile);
    const std::size_t shared = 2 * kStridedTile * 128 * (args.q.dtype == DType::f32 ? 2 : 1);
    launch(kStridedProducts[place_of(args.q.dtype)],
           {{static_cast<unsigned>(tiles)}, {kStridedThreads}, shared}, args.stream, args);
}

void block_shares(const BlockSharesArgs& args) noexcept {
    launch(kStridedParts, warps_for(args.blocks.maps * args.blocks.rows()), args.stream, args);
    launch(kJoinParts, warps_for(args.blocks.maps * args.blocks.q_blocks), args.stream, args);
}

void keep_shares(const KeepSharesArgs& args) noexcept {
    const auto rows = static_cast<unsigned>(args.blocks.maps * args.blocks.q_blocks);
    launch(kKeepShares, {{rows}, {kPlanningThreads}, sizeof(double)}, args.stream, args);
}

}  // namespace

constexpr PlanningKernels kPlanning = {.name = "cuda.sm80.planning",
                                       .cell_means = cell_means,
                                       .mean_products = mean_products,
                                       .keep_best = keep_best,
                                       .place_cells = place_cells,
                                       .block_lists = block_lists,
                                       .sample_recalls = sample_recalls,
                                       .sample_errors = sample_errors,
                                       .fan_out = fan_out,
                                       .kept_scores = kept_scores,
                                       .strided_products = strided_products,
                                       .block_shares = block_shares,
                                       .keep_shares = keep_shares};

}  // namespace aerogel::cuda
