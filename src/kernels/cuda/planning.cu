// The planning kernels for nvcc and the emulator.
#include "kernels/cuda/planning.cuh"
#include "kernels/cuda/planning_strided.cuh"

namespace cuda = aerogel::cuda;
using aerogel::DType;

#define AEROGEL_KERNEL(name, threads, Args, body)                                  \
    extern "C" __global__ void __launch_bounds__(threads) aerogel_##name(Args a) { \
        cuda::body(a);                                                             \
    }

AEROGEL_KERNEL(cell_means_f32, cuda::kMeanThreads, aerogel::CellMeansArgs, cell_means<DType::f32>)
AEROGEL_KERNEL(cell_means_bf16, cuda::kMeanThreads, aerogel::CellMeansArgs, cell_means<DType::bf16>)
AEROGEL_KERNEL(cell_means_f16, cuda::kMeanThreads, aerogel::CellMeansArgs, cell_means<DType::f16>)
AEROGEL_KERNEL(mean_products, cuda::kProductWarps * 32, aerogel::MeanProductsArgs, mean_products)
AEROGEL_KERNEL(keep_best, cuda::kPlanningThreads, aerogel::KeepBestArgs, keep_best)
AEROGEL_KERNEL(place_cells, cuda::kPlanningThreads, aerogel::PlaceCellsArgs, place_cells)
AEROGEL_KERNEL(block_lists, cuda::kPlanningThreads, aerogel::BlockListsArgs, block_lists)
AEROGEL_KERNEL(sample_shares, cuda::kPlanningThreads, aerogel::SampleRecallsArgs, sample_shares)
AEROGEL_KERNEL(choose_types, cuda::kPlanningThreads, aerogel::SampleRecallsArgs, choose_types)
AEROGEL_KERNEL(sample_errors, cuda::kPlanningThreads, aerogel::SampleErrorsArgs, sample_errors)
AEROGEL_KERNEL(choose_by_error, cuda::kPlanningThreads, aerogel::SampleErrorsArgs, choose_by_error)
AEROGEL_KERNEL(fan_out, cuda::kPlanningThreads, aerogel::FanOutArgs, fan_out)
AEROGEL_KERNEL(kept_scores, cuda::kPlanningThreads, aerogel::KeptScoresArgs, kept_scores)

AEROGEL_KERNEL(strided_products_f32, cuda::kStridedThreads, aerogel::StridedProductsArgs,
               strided_products<DType::f32>)
AEROGEL_KERNEL(strided_products_bf16, cuda::kStridedThreads, aerogel::StridedProductsArgs,
               strided_products<DType::bf16>)
AEROGEL_KERNEL(strided_products_f16, cuda::kStridedThreads, aerogel::StridedProductsArgs,
               strided_products<DType::f16>)
AEROGEL_KERNEL(strided_parts, cuda::kPlanningThreads, aerogel::BlockSharesArgs, strided_parts)
AEROGEL_KERNEL(join_parts, cuda::kPlanningThreads, aerogel::BlockSharesArgs, join_parts)
AEROGEL_KERNEL(keep_shares, cuda::kPlanningThreads, aerogel::KeepSharesArgs, keep_shares)
