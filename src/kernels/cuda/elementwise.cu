// The element-wise kernels for nvcc and the emulator.
#include "kernels/cuda/elementwise.cuh"
#include "kernels/cuda/rotation.cuh"

namespace cuda = aerogel::cuda;
using aerogel::DType;

#define AEROGEL_KERNEL(name, Args, body)                                                         \
    extern "C" __global__ void __launch_bounds__(cuda::kElementThreads) aerogel_##name(Args a) { \
        cuda::body(a);                                                                           \
    }

AEROGEL_KERNEL(norm, aerogel::NormArgs, norm)
AEROGEL_KERNEL(activation, aerogel::ActivationArgs, activation)
AEROGEL_KERNEL(gated, aerogel::GatedArgs, gated)
AEROGEL_KERNEL(rope, aerogel::RopeArgs, rope)
AEROGEL_KERNEL(residual, aerogel::ResidualArgs, residual)
AEROGEL_KERNEL(combine_f32, cuda::CombineTerms, combine<float>)
AEROGEL_KERNEL(combine_f64, cuda::CombineTerms, combine<double>)
AEROGEL_KERNEL(match_norms, aerogel::MatchNormsArgs, match_norms)
AEROGEL_KERNEL(all_finite, cuda::AllFiniteArgs, all_finite)
AEROGEL_KERNEL(group_norm_parts, cuda::GroupNormSteps, group_norm_parts)
AEROGEL_KERNEL(group_norm_join, cuda::GroupNormSteps, group_norm_join)
AEROGEL_KERNEL(group_norm_apply, cuda::GroupNormSteps, group_norm_apply)
AEROGEL_KERNEL(softmax, aerogel::SoftmaxArgs, softmax)
AEROGEL_KERNEL(clamp, aerogel::ClampArgs, clamp)

#define AEROGEL_COPY(from, to)                                          \
    extern "C" __global__ void __launch_bounds__(cuda::kElementThreads) \
        aerogel_copy_##from##_##to(cuda::CopyAxesArgs a) {              \
        cuda::copy<DType::from, DType::to>(a);                          \
    }

AEROGEL_COPY(f32, f32)
AEROGEL_COPY(f32, bf16)
AEROGEL_COPY(f32, f16)
AEROGEL_COPY(bf16, f32)
AEROGEL_COPY(bf16, bf16)
AEROGEL_COPY(bf16, f16)
AEROGEL_COPY(f16, f32)
AEROGEL_COPY(f16, bf16)
AEROGEL_COPY(f16, f16)

AEROGEL_KERNEL(hadamard_32, cuda::HadamardWarpArgs, hadamard<1>)
AEROGEL_KERNEL(hadamard_64, cuda::HadamardWarpArgs, hadamard<2>)
AEROGEL_KERNEL(hadamard_128, cuda::HadamardWarpArgs, hadamard<4>)
AEROGEL_KERNEL(hadamard_256, cuda::HadamardWarpArgs, hadamard<8>)
AEROGEL_KERNEL(hadamard_512, cuda::HadamardWarpArgs, hadamard<16>)
AEROGEL_KERNEL(hadamard_1024, cuda::HadamardWarpArgs, hadamard<32>)
AEROGEL_KERNEL(hadamard_pass, cuda::HadamardPassArgs, hadamard_pass)
AEROGEL_KERNEL(convrot_32, cuda::HadamardWarpArgs, convrot<1>)
AEROGEL_KERNEL(convrot_64, cuda::HadamardWarpArgs, convrot<2>)
AEROGEL_KERNEL(convrot_256, cuda::HadamardWarpArgs, convrot<8>)
AEROGEL_KERNEL(convrot_1024, cuda::HadamardWarpArgs, convrot<32>)
AEROGEL_KERNEL(convrot_pass, cuda::HadamardPassArgs, convrot_pass)
