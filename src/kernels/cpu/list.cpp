// The CPU's lists of kernels: best first, with the level that each needs. The reference comes last.
#include "kernels/cpu/list.h"

#include "base/cpu_features.h"
#include "kernels/cpu/amx/kernels.h"
#include "kernels/cpu/avx2/kernels.h"
#include "kernels/cpu/avx512/kernels.h"
#include "kernels/cpu/avx512_bf16/kernels.h"
#include "kernels/cpu/avxvnni/kernels.h"
#include "kernels/cpu/baseline/kernels.h"
#include "kernels/cpu/bf16_speed.h"
#include "kernels/reference/kernels.h"

namespace aerogel::cpu {
namespace {

constexpr int kBaseline = static_cast<int>(CpuLevel::baseline), kAvx2 = static_cast<int>(CpuLevel::avx2),
              kAvxVnni = static_cast<int>(CpuLevel::avxvnni), kAvx512 = static_cast<int>(CpuLevel::avx512),
              kAvx512Bf16 = static_cast<int>(CpuLevel::avx512_bf16), kAmx = static_cast<int>(CpuLevel::amx);

constexpr MachineRow<LinearKernel> kLinear[] = {
    {kAmx, &amx::kW8A8},
    {kAvx512Bf16, &avx512_bf16::kBf16, slow_bf16},
    {kAvx512, &avx512::kW8A8},
    {kAvx512, &avx512::kByteGroups},
    {kAvx512, &avx512::kGrouped},
    {kAvx512, &avx512::kDequantize},
    {kAvx512, &avx512::kFloat},
    {kAvxVnni, &avxvnni::kW8A8},
    {kAvxVnni, &avxvnni::kByteGroups},
    {kAvx2, &avx2::kW4A8},
    {kAvx2, &avx2::kW8A8},
    {kAvx2, &avx2::kNibbleGroups},
    {kAvx2, &avx2::kGrouped},
    {kAvx2, &avx2::kDequantize},
    {kAvx2, &avx2::kFloat},
    {kBaseline, &baseline::kGrouped},
    {kBaseline, &baseline::kDequantize},
    {kBaseline, &baseline::kFloat},
    {kBaseline, &reference::kLinear},
};

constexpr MachineRow<AttentionKernel> kAttention[] = {
    {kAmx, &amx::kAttention},
    {kAmx, &amx::kInt8Attention},
    {kAvx512Bf16, &avx512_bf16::kAttention, slow_bf16},
    {kAvx512, &avx512::kAttention},
    {kAvx512, &avx512::kInt8Attention},
    {kAvx512, &avx512::kRoundedAttention},
    {kAvxVnni, &avxvnni::kInt8Attention},
    {kAvx2, &avx2::kAttention},
    {kAvx2, &avx2::kInt8Attention},
    {kAvx2, &avx2::kRoundedAttention},
    {kBaseline, &baseline::kAttention},
    {kBaseline, &baseline::kRoundedAttention},
    {kBaseline, &reference::kAttention},
    {kBaseline, &reference::kInt8Attention},
    {kBaseline, &reference::kRoundedAttention},
};

constexpr MachineRow<ElementwiseKernels> kElementwise[] = {
    {kAvx512, &avx512::kElementwise},
    {kAvx2, &avx2::kElementwise},
    {kBaseline, &baseline::kElementwise},
    {kBaseline, &reference::kElementwise},
};

constexpr MachineRow<ConvolutionKernel> kConvolution[] = {
    {kAvx512, &avx512::kWinograd},
    {kAvx512, &avx512::kConvolution},
    {kAvx2, &avx2::kWinograd},
    {kAvx2, &avx2::kConvolution},
    {kBaseline, &baseline::kWinograd},
    {kBaseline, &baseline::kConvolution},
    {kBaseline, &reference::kConvolution},
};

constexpr MachineRow<HadamardKernel> kHadamard[] = {
    {kAvx512, &avx512::kHadamard},
    {kAvx2, &avx2::kHadamard},
    {kBaseline, &baseline::kHadamard},
    {kBaseline, &reference::kHadamard},
};

constexpr MachineRow<PlanningKernels> kPlanning[] = {{kBaseline, &reference::kPlanning}};

constexpr MachineRow<PeakKernel> kPeak[] = {
    {kAmx, &amx::kPeakInt8},           {kAmx, &amx::kPeakBf16},       {kAvx512Bf16, &avx512_bf16::kPeakBf16},
    {kAvx512, &avx512::kPeakF32},      {kAvx512, &avx512::kPeakInt8}, {kAvxVnni, &avxvnni::kPeakInt8},
    {kAvx2, &avx2::kPeakF32},          {kAvx2, &avx2::kPeakInt8},     {kBaseline, &baseline::kPeakF32},
    {kBaseline, &baseline::kPeakInt8},
};

std::string why_not(Device, int level) {
    const auto needed = static_cast<CpuLevel>(level);
    if (!cpu_has(needed) && needed <= cpu_level())
        return "needs " + std::string(to_string(needed)) + ", which this CPU lacks";
    if (needed <= cpu_level()) return "";
    return "needs CPU level " + std::string(to_string(needed)) + ", allowed is " +
           std::string(to_string(cpu_level()));
}

}  // namespace

constexpr Machine kMachine = {why_not,   kLinear, kAttention,   kElementwise,
                              kHadamard, kPeak,   kConvolution, kPlanning};

}  // namespace aerogel::cpu
