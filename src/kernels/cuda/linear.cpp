// The linear rows of CUDA: a launch that quantizes x into slabs, and one that multiplies them.
#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear_args.h"
#include "kernels/cuda/linear_pack.h"

namespace aerogel::cuda {

extern const Image kQuantizeImage, kLinearInt8Image, kLinearInt8Sm90Image, kLinearInt4Image,
    kLinearInt4Sm90Image, kLinearBf16Image, kLinearBf16Sm90Image, kLinearCodesSm90Image, kLinearFp8Image,
    kLinearFp8Sm90Image;

namespace {

/// How many blocks of a tile fit a multiprocessor, and the speed of its products where all have some.
struct Pace {
    std::int64_t blocks;
    double speed;
};
constexpr std::array<Pace, 5> kPaces = {{{1, 1.0}, {1, 0.85}, {2, 0.6}, {4, 0.25}, {1, 1.6}}};
constexpr std::array<TileShape, 4> kShapes = {kTileL, kTileM, kTileS, kTileT};
constexpr std::size_t kL = 0, kM = 1, kS = 2, kT = 3, kHopper = 4;
constexpr std::int64_t kFewRows = 64;
constexpr std::int64_t kMostRows = 256;  // of a tile

/// The functions of a kind of products; null: not compiled.
struct Functions {
    std::array<const Kernel*, kPaces.size()> plain, groups;
};

constexpr Kernel kBf16Sm90 = {kLinearBf16Sm90Image, "aerogel_bf16_sm90"};
constexpr Kernel kFp8Sm90 = {kLinearFp8Sm90Image, "aerogel_fp8_sm90"};
constexpr Kernel kFp8[] = {{kLinearFp8Image, "aerogel_fp8_m"}, {kLinearFp8Image, "aerogel_fp8_s"}};
constexpr Kernel kW8A8Sm90 = {kLinearInt8Sm90Image, "aerogel_w8a8_sm90"};
constexpr Kernel kW8A8GroupsSm90 = {kLinearInt8Sm90Image, "aerogel_w8a8_groups_sm90"};
constexpr Kernel kW4A8Sm90 = {kLinearInt4Sm90Image, "aerogel_w4a8_sm90"},
                 kW4A8GroupsSm90 = {kLinearInt4Sm90Image, "aerogel_w4a8_groups_sm90"},
                 kBf16Int8Sm90 = {kLinearCodesSm90Image, "aerogel_bf16_int8_sm90"},
                 kBf16Int4Sm90 = {kLinearCodesSm90Image, "aerogel_bf16_int4_sm90"},
                 kBf16Fp8Sm90 = {kLinearCodesSm90Image, "aerogel_bf16_fp8_sm90"},
                 kBf16Fp4Sm90 = {kLinearCodesSm90Image, "aerogel_bf16_fp4_sm90"};
constexpr Kernel kQuantizeIntegers = {kQuantizeImage, "aerogel_quantize_integers"},
                 kQuantizeFloats = {kQuantizeImage, "aerogel_quantize_floats"},
                 kRotateIntegers = {kQuantizeImage, "aerogel_quantize_rotated_integers"},
                 kRotateFloats = {kQuantizeImage, "aerogel_quantize_rotated_floats"};

constexpr Kernel kW8A8[] = {
    {kLinearInt8Image, "aerogel_w8a8_l"},        {kLinearInt8Image, "aerogel_w8a8_m"},
    {kLinearInt8Image, "aerogel_w8a8_s"},        {kLinearInt8Image, "aerogel_w8a8_t"},
    {kLinearInt8Image, "aerogel_w8a8_groups_m"}, {kLinearInt8Image, "aerogel_w8a8_groups_s"}};
constexpr Kernel kW4A8[] = {
    {kLinearInt4Image, "aerogel_w4a8_l"},        {kLinearInt4Image, "aerogel_w4a8_m"},
    {kLinearInt4Image, "aerogel_w4a8_s"},        {kLinearInt4Image, "aerogel_w4a8_t"},
    {kLinearInt4Image, "aerogel_w4a8_groups_m"}, {kLinearInt4Image, "aerogel_w4a8_groups_s"}};
constexpr Kernel kBf16[] = {{kLinearBf16Image, "aerogel_bf16_m"}, {kLinearBf16Image, "aerogel_bf16_s"}};
constexpr Kernel kBf16Int8[] = {{kLinearBf16Image, "aerogel_bf16_int8_m"},
                                {kLinearBf16Image, "aerogel_bf16_int8_s"}};
constexpr Kernel kBf16Int4[] = {{kLinearBf16Image, "aerogel_bf16_int4_m"},
                                {kLinearBf16Image, "aerogel_bf16_int4_s"}};
constexpr Kernel kBf16Fp8[] = {{kLinearBf16Image, "aerogel_bf16_fp8_m"},
                               {kLinearBf16Image, "aerogel_bf16_fp8_s"}};
constexpr Kernel kBf16Fp4[] = {{kLinearBf16Image, "aerogel_bf16_fp4_m"},
                               {kLinearBf16Image, "aerogel_bf16_fp4_s"}};

constexpr Functions integer_functions(const Kernel (&of)[6], const Kernel* hopper,
                                      const Kernel* hopper_groups) {
    return {{&of[0], &of[1], &of[2], &of[3], hopper}, {nullptr, &of[4], &of[5], nullptr, hopper_groups}};
}
constexpr Functions group_functions(const Kernel (&of)[2], const Kernel* hopper) {
    return {{}, {nullptr, &of[0], &of[1], nullptr, hopper}};
}

/// In the order of Products.
constexpr std::array<Functions, 8> kFunctions = {{integer_functions(kW8A8, &kW8A8Sm90, &kW8A8GroupsSm90),
                                                  integer_functions(kW4A8, &kW4A8Sm90, &kW4A8GroupsSm90),
                                                  {{nullptr, &kBf16[0], &kBf16[1], nullptr, &kBf16Sm90}, {}},
                                                  group_functions(kBf16Int8, &kBf16Int8Sm90),
                                                  group_functions(kBf16Int4, &kBf16Int4Sm90),
                                                  group_functions(kBf16Fp8, &kBf16Fp8Sm90),
                                                  group_functions(kBf16Fp4, &kBf16Fp4Sm90),
                                                  group_functions(kFp8, &kFp8Sm90)}};

std::int64_t tiles_of(std::int64_t a, std::int64_t b) {
    return (a + b - 1) / b;
}

constexpr const HopperShape& hopper_shape_of(const SlabWeight& weight) {
    if (weight.products == Products::fp8) return kHopperNarrow;
    return weight.row_bytes == 64 ? kHopperHalves : weight.row_bytes == 32 ? kHopperQuarters : kHopperWide;
}

/// The launch of a tile.
struct Block {
    Block(std::size_t tile, const SlabWeight& weight) {
        if (tile == kHopper) {
            const HopperShape& shape = hopper_shape_of(weight);
            rows = shape.rows, columns = shape.columns, threads = shape.threads;
            shared_bytes = shape.shared_bytes;
            return;
        }
        const TileShape& shape = kShapes[tile];
        rows = shape.rows, columns = shape.columns, threads = shape.threads;
        const std::int64_t stage = rows * kSlabBytes + columns * weight.row_bytes;
        shared_bytes = shape.stages * stage + columns * 8;  // scale and addend of the columns
    }
    std::int64_t rows, columns, threads, shared_bytes;
};

bool in_groups(const SlabWeight& weight) {
    return weight.products != Products::bf16 && !(weight.integers() && weight.groups == 1);
}

const std::array<const Kernel*, kPaces.size()>& functions_of(const SlabWeight& weight) {
    const Functions& all = kFunctions[static_cast<std::size_t>(weight.products)];
    return in_groups(weight) ? all.groups : all.plain;
}

/// Few rows: the tile that reads the weights best. Else the one that is done first, if a block takes as long
/// as its tile is large, and as many blocks as fit begin together.
std::size_t tile_of(const LinearProblem& problem, const SlabWeight& weight, bool hopper) {
    const auto& functions = functions_of(weight);
    if (problem.m <= kFewRows && functions[kT] != nullptr) return kT;
    if (hopper && weight.products == Products::fp8) return kHopper;  // the others are not native there
    const Properties& gpu = here();
    std::size_t best = kS;
    double least = 0;
    for (const std::size_t i : {kS, kM, kL, kHopper}) {
        if (functions[i] == nullptr || (i == kHopper && !hopper)) continue;
        const Block block(i, weight);
        if (block.shared_bytes > gpu.shared_per_block) continue;
        const std::int64_t blocks = tiles_of(problem.m, block.rows) * tiles_of(problem.n, block.columns);
        const auto [together, speed] = kPaces[i];
        const std::int64_t rounds = tiles_of(blocks, together * std::max(gpu.multiprocessors, 1));
        const double time = static_cast<double>(rounds * together * block.rows * block.columns) / speed;
        if (i == kS || time < least) {
            best = i;
            least = time;
        }
    }
    return best;
}

Quantize quantize_of(Activation activation) {
    switch (activation) {
        case Activation::per_token:
        case Activation::per_token_int4:
            return Quantize::integers;
        case Activation::per_tensor:
            return Quantize::fixed_integers;
        case Activation::per_token_fp8:
            return Quantize::fp8;
        case Activation::mxfp8:
            return Quantize::mxfp8;
        case Activation::mxfp4:
            return Quantize::mxfp4;
        case Activation::mxfp4_dual:
            return Quantize::mxfp4_dual;
        case Activation::none:
            break;
    }
    return Quantize::parts;
}

/// bf16 parts of x' whose sum is close enough to it, as for weights (linear_pack.cpp).
std::int32_t x_parts(const LinearProblem& problem, bool scaled) {
    scaled = scaled || problem.rotated;
    const bool coded = problem.activation != Activation::none && problem.activation != Activation::mxfp4_dual;
    const bool bf16 = problem.activation == Activation::none && problem.x == DType::bf16 && !scaled;
    if (coded || bf16) return 1;
    return problem.k >= 512 ? 2 : 3;
}

/// Workspace: s_t [m], then x' in slabs: [parts][slabs][rows][128].
struct Workspace {
    Workspace(const LinearProblem& problem, const SlabWeight& weight, bool scaled)
        : rows(tiles_of(problem.m, kMostRows) * kMostRows),
          plane(weight.slabs * rows * kSlabBytes),
          parts(weight.bytes_of_x() ? 1 : x_parts(problem, scaled)),
          finite(weight.parts > 1 ? 1 : 0),
          slabs(static_cast<std::size_t>(tiles_of(problem.m * 4, 256) * 256)),
          bytes(slabs + static_cast<std::size_t>(plane * (parts + finite))) {}

    std::int64_t rows;
    std::int64_t plane;
    std::int32_t parts;
    std::int32_t finite;
    std::size_t slabs;
    std::size_t bytes;
};

Real real_of(DType type) {
    return type == DType::f32 ? Real::f32 : type == DType::bf16 ? Real::bf16 : Real::f16;
}

bool is_aligned(const void* base, std::int64_t row_bytes) {
    return reinterpret_cast<std::uintptr_t>(base) % 16 == 0 && row_bytes % 16 == 0;
}

/// One call.
struct Call {
    const LinearProblem& problem;
    const LinearArgs& args;
    SlabWeight weight;
    Workspace workspace;
};

QuantizeArgs quantize_args(const Call& call) {
    const LinearProblem& p = call.problem;
    const LinearArgs& args = call.args;
    const SlabWeight& w = call.weight;
    QuantizeArgs q = {};
    q.x = args.x;
    q.mul_scale = args.mul_scale;
    q.column_order = args.column_order;
    q.slabs = reinterpret_cast<unsigned char*>(args.workspace + call.workspace.slabs);
    q.s_t = reinterpret_cast<float*>(args.workspace);
    q.x_stride = args.x_stride;
    q.rows = call.workspace.rows;
    q.plane = call.workspace.plane;
    q.k = static_cast<std::int32_t>(p.k);
    q.width = static_cast<std::int32_t>(w.padded_columns());
    q.padded_group = static_cast<std::int32_t>(w.group_steps * w.step);
    q.group = w.groups == 1 || w.width == q.padded_group ? 0 : static_cast<std::int32_t>(w.width);
    q.x_type = real_of(p.x);
    q.kind = w.products == Products::fp8 ? Quantize::fp8_codes : quantize_of(p.activation);
    q.aligned = is_aligned(args.x, args.x_stride * static_cast<std::int64_t>(size_of(p.x))) &&
                is_aligned(args.mul_scale, 0);
    q.parts = call.workspace.parts;
    q.finite = call.workspace.finite;
    q.top = p.activation == Activation::per_token_int4 ? 7.0F : 127.0F;
    q.input_scale = args.input_scale;
    q.input_offset = args.input_offset;
    if (!p.rotated) return q;
    const RotationShape& rotation = args.rotation.shape;
    q.rotation = static_cast<std::int32_t>(rotation.block);
    q.convrot = rotation.kind == RotationKind::convrot ? 1 : 0;
    q.rotation_factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(rotation.block)));
    q.rotation_factors = args.rotation.factors;
    return q;
}

/// Which parts are multiplied, until the products are too small: x's in the low half of a byte. Where x may
/// be infinite, only its first part and w's are.
void list_pairs(const Call& call, GemmArgs& g) {
    const auto x = call.workspace.parts, w = static_cast<std::int32_t>(call.weight.parts);
    for (std::int32_t b = 0; b < w; ++b) {
        for (std::int32_t a = 0; a < x && a + b < std::max(x, w); ++a) {
            const std::int32_t from = a == 0 && b > 0 ? x : a;
            g.pair_list |= static_cast<std::uint64_t>(from | b << 4) << (8 * g.pairs++);
        }
    }
}

GemmArgs gemm_args(const Call& call, const Block& block) {
    const LinearProblem& p = call.problem;
    const LinearArgs& args = call.args;
    const SlabWeight& w = call.weight;
    const bool fixed = p.activation == Activation::per_tensor;
    const auto* packed = reinterpret_cast<const unsigned char*>(args.packed);
    GemmArgs g = {};
    g.x = reinterpret_cast<unsigned char*>(args.workspace + call.workspace.slabs);
    g.w = packed;
    g.s_t = fixed ? nullptr : reinterpret_cast<const float*>(args.workspace);
    g.scale = fixed ? args.deq_scale : reinterpret_cast<const float*>(packed + w.scale);
    if (w.products == Products::bf16) g.scale = nullptr;
    g.offset = p.weight_offset ? reinterpret_cast<const float*>(packed + w.offset) : nullptr;
    g.add = fixed ? static_cast<const void*>(args.quant_bias) : args.bias;
    g.y = args.y;
    g.y_stride = args.y_stride;
    g.m = p.m;
    g.n = p.n;
    g.x_rows = call.workspace.rows;
    g.w_rows = w.rows;
    g.x_plane = call.workspace.plane;
    g.w_plane = static_cast<std::int64_t>(w.part_bytes);
    list_pairs(call, g);
    g.slabs = static_cast<std::int32_t>(w.slabs);
    const bool fp8 = w.products == Products::fp8;  // sums of a slab are a group
    g.groups = static_cast<std::int32_t>(fp8 ? w.slabs : w.groups);
    g.group_steps = static_cast<std::int32_t>(fp8 ? 4 : w.group_steps);
    g.wide = w.width > 256;
    g.fixed = fixed;
    g.e5m2 = p.weight == Format::fp8_e5m2;
    g.row_tiles = static_cast<std::int32_t>(tiles_of(p.m, block.rows));
    g.column_tiles = static_cast<std::int32_t>(tiles_of(p.n, block.columns));
    g.y_type = real_of(p.y);
    g.y_aligned = is_aligned(args.y, args.y_stride * static_cast<std::int64_t>(size_of(p.y)));
    return g;
}

bool quantize(const Call& call) {
    const QuantizeArgs q = quantize_args(call);
    const std::int64_t k = call.problem.k, held = tiles_of(k, 8) * 32;
    const std::int64_t threads = k >= 1024 ? kQuantizeThreads : 64 * tiles_of(k, 512);
    const std::int64_t shared = kQuantizeWords * 4 + (held <= kHeldBytes ? held : 0);
    const Kernel& to_integers = call.problem.rotated ? kRotateIntegers : kQuantizeIntegers;
    const Kernel& to_floats = call.problem.rotated ? kRotateFloats : kQuantizeFloats;
    return launch(call.weight.bytes_of_x() ? to_integers : to_floats,
                  {{static_cast<unsigned>(call.problem.m)},
                   {static_cast<unsigned>(threads)},
                   static_cast<std::size_t>(shared)},
                  call.args.stream, q);
}

void multiply(const Call& call, bool hopper) {
    const std::size_t tile = tile_of(call.problem, call.weight, hopper);
    const Block block(tile, call.weight);
    const GemmArgs g = gemm_args(call, block);
    auto blocks = static_cast<unsigned>(g.row_tiles) * static_cast<unsigned>(g.column_tiles);
    if (tile == kHopper) blocks = std::min(blocks, static_cast<unsigned>(here().multiprocessors));
    launch(*functions_of(call.weight)[tile],
           {{blocks}, {static_cast<unsigned>(block.threads)}, static_cast<std::size_t>(block.shared_bytes)},
           call.args.stream, g);
}

/// The functions of a row. kNativeFp8: both sides stay E4M3.
template <bool kOnHopper, bool kNativeFp8>
struct SlabRow {
    static SlabWeight weight_of(const LinearProblem& problem) {
        return {problem, kNativeFp8 ? Products::fp8 : products_of(problem)};
    }
    static std::size_t packed_bytes(const LinearProblem& problem) { return weight_of(problem).bytes; }
    static std::size_t workspace_bytes(const LinearProblem& problem) {
        return Workspace(problem, weight_of(problem), true).bytes;
    }
    static void run(const LinearProblem& problem, const LinearArgs& args) noexcept {
        const SlabWeight weight = weight_of(problem);
        const Call call = {problem, args, weight, Workspace(problem, weight, args.mul_scale != nullptr)};
        if (quantize(call)) multiply(call, kOnHopper);
    }
};

constexpr bool kTakesF16 = true;

std::string limits(const LinearProblem& problem) {
    constexpr std::int64_t kMostColumns = std::int64_t{1}
                                          << 28;  // places in a row of the slabs are 32-bit numbers
    if (problem.k > kMostColumns || SlabWeight(problem).padded_columns() > kMostColumns)
        return "takes rows of at most 2^28 columns, with groups padded to 32";
    return linear_limits(problem, kTakesF16);
}

std::string takes_w8a8(const LinearProblem& problem) {
    if (!is_integer(problem.activation)) return "takes integer activations only";
    if (problem.weight != Format::int8) return "takes int8 weights only";
    if (problem.group_size != 0) return "takes one weight scale per row only";
    return limits(problem);
}

std::string takes_w4a8(const LinearProblem& problem) {
    if (!is_integer(problem.activation)) return "takes integer activations only";
    if (problem.weight != Format::int4) return "takes int4 weights only";
    if (problem.group_size != 0) return "takes one weight scale per row only";
    return limits(problem);
}

std::string takes_groups(const LinearProblem& problem) {
    if (!is_integer(problem.activation)) return "takes integer activations only";
    if (problem.group_size == 0) return "takes weight scales in groups only";
    return limits(problem);
}

std::string takes_hopper_groups(const LinearProblem& problem) {
    constexpr std::int64_t kMostColumns = kMostHopperGroup * 32;
    if (problem.group_size > kMostColumns)
        return "takes groups of at most " + std::to_string(kMostColumns) + " columns";
    return takes_groups(problem);
}

std::string takes_float(const LinearProblem& problem) {
    if (problem.weight != Format::f32 && problem.weight != Format::bf16) return "takes float weights only";
    return limits(problem);
}

std::string takes_codes(const LinearProblem& problem) {
    if (problem.weight == Format::f32 || problem.weight == Format::bf16)
        return "takes quantized weights only";
    if (is_integer(problem.activation)) return "takes no integer activations";
    return limits(problem);
}

/// The tensor cores keep some 14 bits of the sums of a slab: less than float32 loses in so many columns.
std::string takes_fp8(const LinearProblem& problem) {
    constexpr std::int64_t kEnoughColumns = 1024;
    if (problem.weight != Format::fp8_e4m3 || problem.activation != Activation::per_token_fp8)
        return "takes fp8_e4m3 weights with per_token_fp8 activations only";
    if (problem.group_size != 0) return "takes one weight scale per row only";
    if (problem.k < kEnoughColumns)
        return "takes rows of at least 1024 columns, whose rounding hides that of fp8 sums";
    return limits(problem);
}

template <bool kOnHopper = false, bool kNativeFp8 = false>
constexpr LinearKernel row(std::string_view name, std::string (*why_not)(const LinearProblem&)) {
    using Row = SlabRow<kOnHopper, kNativeFp8>;
    return {.name = name,
            .why_not = why_not,
            .packed_bytes = Row::packed_bytes,
            .pack = kNativeFp8 ? pack_fp8_slabs : pack_slabs,
            .workspace_bytes = Row::workspace_bytes,
            .run = Row::run,
            .rotates = true,
            .most_rotated = kMostRotated,
            .f16 = kTakesF16,
            .orders = true};
}

}  // namespace

const LinearKernel kHopperW8A8Linear = row<true>("cuda.sm90.w8a8", takes_w8a8);
const LinearKernel kHopperFp8Linear = row<true, true>("cuda.sm90.fp8", takes_fp8);
const LinearKernel kHopperFloatLinear = row<true>("cuda.sm90.float", takes_float);
const LinearKernel kHopperW4A8Linear = row<true>("cuda.sm90.w4a8", takes_w4a8);
const LinearKernel kHopperGroupedLinear = row<true>("cuda.sm90.groups", takes_hopper_groups);
const LinearKernel kHopperDequantizeLinear = row<true>("cuda.sm90.dequantize", takes_codes);
const LinearKernel kFp8Linear = row<false, true>("cuda.sm89.fp8", takes_fp8);
const LinearKernel kW8A8Linear = row("cuda.sm80.w8a8", takes_w8a8);
const LinearKernel kW4A8Linear = row("cuda.sm80.w4a8", takes_w4a8);
const LinearKernel kGroupedLinear = row("cuda.sm80.groups", takes_groups);
const LinearKernel kDequantizeLinear = row("cuda.sm80.dequantize", takes_codes);
const LinearKernel kFloatLinear = row("cuda.sm80.float", takes_float);

}  // namespace aerogel::cuda
