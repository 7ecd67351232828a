// The linear row of MX numbers on both sides, which sm_120 multiplies natively: a launch that quantizes x
// into codes and exponents, and one that multiplies.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/thread_pool.h"
#include "formats/nibbles.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mx_args.h"

namespace aerogel::cuda {

extern const Image kLinearMxSm120Image, kLinearMxfp4Sm120Image;

namespace {

constexpr Kernel kQuantize = {kLinearMxSm120Image, "aerogel_mx_quantize"},
                 kRotate = {kLinearMxSm120Image, "aerogel_mx_quantize_rotated"};
/// By MxKind and the tile (M, S).
constexpr Kernel kProducts[3][2] = {
    {{kLinearMxSm120Image, "aerogel_mx_fp8_m"}, {kLinearMxSm120Image, "aerogel_mx_fp8_s"}},
    {{kLinearMxSm120Image, "aerogel_mx_fp8_fp4_m"}, {kLinearMxSm120Image, "aerogel_mx_fp8_fp4_s"}},
    {{kLinearMxfp4Sm120Image, "aerogel_mx_fp4_m"}, {kLinearMxfp4Sm120Image, "aerogel_mx_fp4_s"}}};

constexpr std::int64_t kBlock = 32, kSlabColumns = 128;

std::int64_t padded(std::int64_t count, std::int64_t to) {
    return (count + to - 1) / to * to;
}

MxKind kind_of(const LinearProblem& problem) {
    if (problem.weight == Format::mxfp8) return MxKind::fp8;
    return problem.activation == Activation::mxfp4 ? MxKind::fp4 : MxKind::fp8_fp4;
}

/// A packed weight, for both kinds of activations: codes [slabs][rows][row_bytes], then words of exponents
/// [slabs][rows].
struct MxWeight {
    explicit MxWeight(const LinearProblem& problem)
        : row_bytes(mx_w_bytes(kind_of(problem))),
          rows(padded(problem.n, kTileM.columns)),
          slabs(padded(problem.k, kSlabColumns) / kSlabColumns) {}

    std::size_t words() const { return static_cast<std::size_t>(slabs * rows * row_bytes); }
    std::size_t bytes() const { return words() + static_cast<std::size_t>(slabs * rows * 4); }

    std::int64_t row_bytes, rows, slabs;
};

/// Workspace: s_t [m], words [slabs][rows], codes [slabs][rows][128 or 64].
struct MxWorkspace {
    explicit MxWorkspace(const LinearProblem& problem)
        : rows(padded(problem.m, kTileM.rows)),
          slabs(MxWeight(problem).slabs),
          words(static_cast<std::size_t>(padded(problem.m * 4, 256))),
          codes(words + static_cast<std::size_t>(padded(slabs * rows * 4, 256))),
          bytes(codes + static_cast<std::size_t>(slabs * rows * mx_x_bytes(kind_of(problem)))) {}

    std::int64_t rows, slabs;
    std::size_t words, codes, bytes;
};

std::string why_not(const LinearProblem& problem) {
    constexpr std::int64_t kMostColumns = std::int64_t{1} << 28;
    const bool eight = problem.activation == Activation::mxfp8 &&
                       (problem.weight == Format::mxfp8 || problem.weight == Format::mxfp4);
    const bool four = problem.activation == Activation::mxfp4 && problem.weight == Format::mxfp4;
    if (!eight && !four) return "takes MX numbers on both sides only, mxfp4 activations with mxfp4 weights";
    if (problem.k > kMostColumns) return "takes rows of at most 2^28 columns";
    return linear_limits(problem, true);
}

std::size_t packed_bytes(const LinearProblem& problem) {
    return MxWeight(problem).bytes();
}

void pack_row(const MxWeight& to, const QuantizedTensor& weight, std::int64_t n, std::byte* packed) {
    const std::int64_t row = neighbour_order(n), blocks = padded(weight.columns, kBlock) / kBlock;
    const auto* codes = static_cast<const std::uint8_t*>(weight.data.data()) + n * weight.columns;
    for (std::int64_t p = 0; p < weight.columns; ++p) {
        const std::int64_t in_slab = p % kSlabColumns, slab = p / kSlabColumns * to.rows;
        if (weight.format == Format::mxfp8) {
            packed[(slab + row) * kSlabBytes + ((in_slab / 16) ^ (row % 8)) * 16 + in_slab % 16] =
                std::byte{codes[p]};
            continue;
        }
        // As mx_args.h says; the second 16 columns of a chunk are the high nibbles.
        std::byte& two = packed[(slab + row / 8 * 8) * 64 + in_slab / 32 * 128 + row % 8 * 16 + in_slab % 16];
        const unsigned nibble = nibble_at(nibble_row(weight, n), p);
        two |= static_cast<std::byte>(nibble << (in_slab % 32 / 16 * 4));
    }
    const auto* exponents = static_cast<const std::uint8_t*>(weight.scale.data()) + n * blocks;
    for (std::int64_t b = 0; b < blocks; ++b)
        packed[static_cast<std::int64_t>(to.words()) + (b / 4 * to.rows + row) * 4 + b % 4] =
            std::byte{exponents[b]};
}

void pack(const LinearProblem& problem, const QuantizedTensor& weight, std::byte* packed) noexcept {
    const MxWeight to(problem);
    std::memset(packed, 0, to.bytes());
    parallel_for(problem.n, [&](std::int64_t n, int) { pack_row(to, weight, n, packed); });
}

std::size_t workspace_bytes(const LinearProblem& problem) {
    return MxWorkspace(problem).bytes;
}

Real real_of(DType type) {
    return type == DType::f32 ? Real::f32 : type == DType::bf16 ? Real::bf16 : Real::f16;
}

bool is_aligned(const void* base, std::int64_t row_bytes) {
    return reinterpret_cast<std::uintptr_t>(base) % 16 == 0 && row_bytes % 16 == 0;
}

bool quantize(const LinearProblem& problem, const LinearArgs& args) {
    const MxWorkspace memory(problem);
    MxQuantizeArgs to = {};
    QuantizeArgs& q = to.row;
    q.x = args.x;
    q.mul_scale = args.mul_scale;
    q.slabs = reinterpret_cast<unsigned char*>(args.workspace + memory.codes);
    q.s_t = reinterpret_cast<float*>(args.workspace);
    q.x_stride = args.x_stride;
    q.rows = memory.rows;
    q.k = static_cast<std::int32_t>(problem.k);
    q.width = static_cast<std::int32_t>(memory.slabs * kSlabColumns);
    q.x_type = real_of(problem.x);
    q.kind = problem.activation == Activation::mxfp8 ? Quantize::mxfp8 : Quantize::mxfp4;
    q.aligned = is_aligned(args.x, args.x_stride * static_cast<std::int64_t>(size_of(problem.x))) &&
                is_aligned(args.mul_scale, 0);
    if (problem.rotated) {
        const RotationShape& rotation = args.rotation.shape;
        q.rotation = static_cast<std::int32_t>(rotation.block);
        q.convrot = rotation.kind == RotationKind::convrot ? 1 : 0;
        q.rotation_factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(rotation.block)));
        q.rotation_factors = args.rotation.factors;
    }
    to.words = reinterpret_cast<std::uint32_t*>(args.workspace + memory.words);
    const std::int64_t held = padded(problem.k, 8) * 4;
    const std::int64_t threads = std::min<std::int64_t>(kQuantizeThreads, padded(problem.k, 512) / 8);
    const std::int64_t shared = kQuantizeWords * 4 + (held <= kHeldBytes ? held : 0);
    return launch(problem.rotated ? kRotate : kQuantize,
                  {{static_cast<unsigned>(problem.m)},
                   {static_cast<unsigned>(threads)},
                   static_cast<std::size_t>(shared)},
                  args.stream, to);
}

void multiply(const LinearProblem& problem, const LinearArgs& args) {
    const MxWorkspace memory(problem);
    const MxWeight weight(problem);
    const std::int64_t large =
        padded(problem.m, kTileM.rows) / kTileM.rows * (padded(problem.n, kTileM.columns) / kTileM.columns);
    const bool small = 2 * large < here().multiprocessors ||  // of the small tiles several run at once
                       mx_shared_bytes(kTileM, kind_of(problem)) > here().shared_per_block;
    const TileShape& tile = small ? kTileS : kTileM;
    const auto* packed = reinterpret_cast<const unsigned char*>(args.packed);
    MxGemmArgs to = {};
    GemmArgs& g = to.gemm;
    g.x = reinterpret_cast<const unsigned char*>(args.workspace + memory.codes);
    g.w = packed;
    g.s_t = reinterpret_cast<const float*>(args.workspace);
    g.add = args.bias;
    g.y = args.y;
    g.y_stride = args.y_stride;
    g.m = problem.m;
    g.n = problem.n;
    g.x_rows = memory.rows;
    g.w_rows = weight.rows;
    g.slabs = static_cast<std::int32_t>(weight.slabs);
    g.row_tiles = static_cast<std::int32_t>(padded(problem.m, tile.rows) / tile.rows);
    g.column_tiles = static_cast<std::int32_t>(padded(problem.n, tile.columns) / tile.columns);
    g.y_type = real_of(problem.y);
    g.y_aligned = is_aligned(args.y, args.y_stride * static_cast<std::int64_t>(size_of(problem.y)));
    to.x_words = reinterpret_cast<const std::uint32_t*>(args.workspace + memory.words);
    to.w_words = reinterpret_cast<const std::uint32_t*>(packed + weight.words());
    launch(kProducts[static_cast<std::size_t>(kind_of(problem))][small ? 1 : 0],
           {{static_cast<unsigned>(g.row_tiles) * static_cast<unsigned>(g.column_tiles)},
            {static_cast<unsigned>(tile.threads)},
            static_cast<std::size_t>(mx_shared_bytes(tile, kind_of(problem)))},
           args.stream, to);
}

void run(const LinearProblem& problem, const LinearArgs& args) noexcept {
    if (quantize(problem, args)) multiply(problem, args);
}

}  // namespace

const LinearKernel kMxLinear = {.name = "cuda.sm120.mx",
                                .why_not = why_not,
                                .packed_bytes = packed_bytes,
                                .pack = pack,
                                .workspace_bytes = workspace_bytes,
                                .run = run,
                                .rotates = true,
                                .most_rotated = kMostRotated,
                                .f16 = true};

}  // namespace aerogel::cuda
