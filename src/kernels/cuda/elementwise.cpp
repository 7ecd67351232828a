// The rows of element-wise operations and of the Hadamard rotation: arguments made plain, grids, launches.
#include <bit>
#include <cmath>

#include "base/failure.h"
#include "core/cuda_memory.h"
#include "kernels/cuda/elementwise_args.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"

namespace aerogel::cuda {

extern const Image kElementwiseImage;

namespace {

const Kernel kNorm{kElementwiseImage, "aerogel_norm"}, kActivation{kElementwiseImage, "aerogel_activation"},
    kGated{kElementwiseImage, "aerogel_gated"}, kRope{kElementwiseImage, "aerogel_rope"},
    kResidual{kElementwiseImage, "aerogel_residual"}, kCombine{kElementwiseImage, "aerogel_combine_f32"},
    kCombineWide{kElementwiseImage, "aerogel_combine_f64"},
    kMatchNorms{kElementwiseImage, "aerogel_match_norms"},
    kAllFinite{kElementwiseImage, "aerogel_all_finite"},
    kGroupNormParts{kElementwiseImage, "aerogel_group_norm_parts"},
    kGroupNormJoin{kElementwiseImage, "aerogel_group_norm_join"},
    kGroupNormApply{kElementwiseImage, "aerogel_group_norm_apply"},
    kSoftmax{kElementwiseImage, "aerogel_softmax"}, kClamp{kElementwiseImage, "aerogel_clamp"},
    kHadamardPass{kElementwiseImage, "aerogel_hadamard_pass"},
    kConvrotPass{kElementwiseImage, "aerogel_convrot_pass"};

// By the types of x and y: f32, bf16, f16.
const Kernel kCopies[3][3] = {
    {{kElementwiseImage, "aerogel_copy_f32_f32"},
     {kElementwiseImage, "aerogel_copy_f32_bf16"},
     {kElementwiseImage, "aerogel_copy_f32_f16"}},
    {{kElementwiseImage, "aerogel_copy_bf16_f32"},
     {kElementwiseImage, "aerogel_copy_bf16_bf16"},
     {kElementwiseImage, "aerogel_copy_bf16_f16"}},
    {{kElementwiseImage, "aerogel_copy_f16_f32"},
     {kElementwiseImage, "aerogel_copy_f16_bf16"},
     {kElementwiseImage, "aerogel_copy_f16_f16"}},
};

// By the columns of a warp: 32, 64 ... 1024.
const Kernel kHadamards[] = {
    {kElementwiseImage, "aerogel_hadamard_32"},  {kElementwiseImage, "aerogel_hadamard_64"},
    {kElementwiseImage, "aerogel_hadamard_128"}, {kElementwiseImage, "aerogel_hadamard_256"},
    {kElementwiseImage, "aerogel_hadamard_512"}, {kElementwiseImage, "aerogel_hadamard_1024"}};

// Of 32, 64, 256, 1024.
const Kernel kConvrots[] = {{kElementwiseImage, "aerogel_convrot_32"},
                            {kElementwiseImage, "aerogel_convrot_64"},
                            {kElementwiseImage, "aerogel_convrot_256"},
                            {kElementwiseImage, "aerogel_convrot_1024"}};

Grid threads_for(std::int64_t count) {
    return {{static_cast<unsigned>((count + kElementThreads - 1) / kElementThreads)}, {kElementThreads}};
}

Grid warps_for(std::int64_t count) {
    return threads_for(32 * count);
}

void norm(const NormArgs& args) noexcept {
    launch(kNorm, warps_for(args.rows), args.stream, args);
}

void activation(const ActivationArgs& args) noexcept {
    launch(kActivation, threads_for(args.count), args.stream, args);
}

void gated(const GatedArgs& args) noexcept {
    launch(kGated, threads_for(args.rows * args.columns), args.stream, args);
}

void rope(const RopeArgs& args) noexcept {
    launch(kRope, threads_for(args.rows * args.heads * (args.head_dim / 2)), args.stream, args);
}

void residual(const ResidualArgs& args) noexcept {
    launch(kResidual, threads_for(args.rows * args.columns), args.stream, args);
}

void combine(const CombineArgs& args) noexcept {
    CombineTerms plain;
    plain.count = args.count;
    plain.terms = static_cast<int>(args.terms);
    plain.y = args.y;
    for (std::size_t term = 0; term < args.terms; ++term) {
        plain.factor[term] = args.factor[term];
        plain.x[term] = args.x[term];
    }
    launch(args.wide ? kCombineWide : kCombine, threads_for(args.count), args.stream, plain);
}

std::size_t place_of(DType dtype) {
    return dtype == DType::bf16 ? 1 : dtype == DType::f16 ? 2 : 0;
}

void copy(const CopyArgs& args) noexcept {
    CopyAxesArgs plain;
    plain.axes = static_cast<int>(args.axes);
    plain.count = 1;
    plain.x = args.x;
    plain.y = args.y;
    for (std::size_t axis = 0; axis < args.axes; ++axis) {
        plain.count *= args.shape[axis];
        plain.shape[axis] = args.shape[axis];
        plain.x_strides[axis] = args.x_strides[axis];
        plain.y_strides[axis] = args.y_strides[axis];
    }
    const Kernel& kernel = kCopies[place_of(args.x_type)][place_of(args.y_type)];
    launch(kernel, threads_for(plain.count), args.stream, plain);
}

void match_norms(const MatchNormsArgs& args) noexcept {
    launch(kMatchNorms, warps_for(args.rows), args.stream, args);
}

// The answer comes to the host, so that this one waits and takes memory.
bool all_finite(const FiniteArgs& args) noexcept {
    int found = 0;
    try {
        const Device device{DeviceKind::cuda, current_device()};
        void* answer = kMemory.allocate(device, sizeof(found));
        if (answer == nullptr) {
            note_failure({kOutOfMemory, "aerogel_all_finite"});
            return false;
        }
        clear_bytes(answer, sizeof(found), args.stream);
        launch(kAllFinite, threads_for(args.count), args.stream,
               AllFiniteArgs{args, static_cast<int*>(answer)});
        if (!failed()) kMemory.to_host(device, &found, answer, sizeof(found));
        kMemory.free(device, answer, sizeof(found));
    } catch (...) {
        note_failure({kUnknown, "aerogel_all_finite"});
    }
    return found == 0;
}

void group_norm(const GroupNormArgs& args) noexcept {
    if (args.rows == 0) return;
    GroupNormSteps steps;
    steps.call = args;
    steps.parts = args.workspace;
    steps.groups = args.workspace + 2 * group_norm_chunks(args.rows) * args.channels;
    if (args.moments == nullptr)
        launch(kGroupNormParts, threads_for(group_norm_chunks(args.rows) * args.channels), args.stream,
               steps);
    launch(kGroupNormJoin, warps_for(args.groups), args.stream, steps);
    if (args.found == nullptr)
        launch(kGroupNormApply, threads_for(args.rows * args.channels), args.stream, steps);
}

void softmax(const SoftmaxArgs& args) noexcept {
    launch(kSoftmax, warps_for(args.rows), args.stream, args);
}

void clamp(const ClampArgs& args) noexcept {
    launch(kClamp, threads_for(args.count), args.stream, args);
}

void hadamard(const HadamardArgs& args) noexcept {
    const std::int64_t chunk = args.block < 32 ? 32 : args.block < kWarpHadamard ? args.block : kWarpHadamard;
    const bool convrot = args.kind == RotationKind::convrot;
    const auto at = static_cast<std::size_t>(std::countr_zero(static_cast<std::uint64_t>(chunk)) - 5);
    const std::int64_t warps = args.rows * ((args.columns + chunk - 1) / chunk);
    const auto factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(args.block)));
    launch(convrot ? kConvrots[(at + 1) / 2] : kHadamards[at], warps_for(warps), args.stream,
           HadamardWarpArgs{args, factor});
    const std::int64_t together = convrot ? 4 : 2;
    for (std::int64_t distance = chunk; distance < args.block; distance *= together) {
        const HadamardPassArgs pass{args.y, args.y_stride, args.rows, args.columns, distance};
        launch(convrot ? kConvrotPass : kHadamardPass, threads_for(args.rows * args.columns / together),
               args.stream, pass);
    }
}

}  // namespace

constexpr ElementwiseKernels kElementwise = {"cuda.sm80.elementwise",
                                             norm,
                                             activation,
                                             gated,
                                             rope,
                                             residual,
                                             combine,
                                             copy,
                                             match_norms,
                                             all_finite,
                                             group_norm,
                                             softmax,
                                             clamp};

constexpr HadamardKernel kHadamard = {"cuda.sm80.hadamard", hadamard, true};

}  // namespace aerogel::cuda
