// The lists of CUDA kernels: best first, with the cards that each is for.
#include "kernels/cuda/list.h"

#include <array>
#include <string>

#include "aerogel/error.h"
#include "base/failure.h"
#include "core/cuda_driver.h"
#include "kernels/cuda/kernels.h"

namespace aerogel::cuda {
namespace {

// A level is a set of families: machine code of an architecture's own instructions runs on no other. sm_80
// stands for 8.0 to 8.7, sm_90 for 9.x, sm_100 for 10.x, sm_120 for 12.x.
struct Family {
    int first_sm;
    int bit;
};
constexpr int kSm80 = 1, kSm89 = 2, kSm90 = 4, kSm100 = 8, kSm120 = 16;
constexpr std::array<Family, 5> kFamilies = {
    {{80, kSm80}, {89, kSm89}, {90, kSm90}, {100, kSm100}, {120, kSm120}}};
constexpr int kAll = kSm80 | kSm89 | kSm90 | kSm100 | kSm120;

constexpr MachineRow<LinearKernel> kLinearRows[] = {
    {kSm90, &kHopperW8A8Linear},   {kSm90, &kHopperW4A8Linear},  {kSm90, &kHopperGroupedLinear},
    {kSm90, &kHopperFp8Linear},    {kSm90, &kHopperFloatLinear}, {kSm90, &kHopperDequantizeLinear},
    {kSm89 | kSm120, &kFp8Linear}, {kSm120, &kMxLinear},         {kAll, &kW8A8Linear},
    {kAll, &kW4A8Linear},          {kAll, &kGroupedLinear},      {kAll, &kDequantizeLinear},
    {kAll, &kFloatLinear},
};
constexpr MachineRow<AttentionKernel> kAttentionRows[] = {
    {kSm90, &kHopperAttention},       {kAll, &kAttention},
    {kAll, &kSplitAttention},         {kAll, &kInt8Attention},
    {kSm90, &kHopperInt8QkAttention}, {kAll, &kInt8QkAttention},
    {kAll, &kRoundedAttention},
};
constexpr MachineRow<ElementwiseKernels> kElementwiseRows[] = {{kAll, &kElementwise}};
constexpr MachineRow<HadamardKernel> kHadamardRows[] = {{kAll, &kHadamard}};
constexpr MachineRow<ConvolutionKernel> kConvolutionRows[] = {{kAll, &kConvolution}};
constexpr MachineRow<PlanningKernels> kPlanningRows[] = {{kAll, &kPlanning}};

int family_of(int sm) {
    int bit = 0;
    for (const Family& family : kFamilies)
        if (family.first_sm <= sm) bit = family.bit;
    return bit;
}

std::string names_of(int level) {
    std::string names;
    for (const Family& family : kFamilies)
        if ((level & family.bit) != 0)
            names += (names.empty() ? "sm_" : " or sm_") + std::to_string(family.first_sm);
    return names;
}

std::string why_not(Device device, int level) {
    const Properties& gpu = properties(device.index);
    if ((level & family_of(gpu.sm)) == 0)
        return "needs " + names_of(level) + ", this GPU is sm_" + std::to_string(gpu.sm);
    if ((level & family_of(gpu.allowed_sm)) != 0) return "";
    return "needs " + names_of(level) + ", allowed is sm_" + std::to_string(gpu.allowed_sm);
}

void run(Device device, FunctionRef<void()> body) {
    const CurrentDevice current(device.index);
    take_failure();  // left by an operation that an exception ended
    body();
    const Failure failure = take_failure();
    if (failure.code == 0) return;
    throw DeviceError("[device] " + device.describe() + ": " + failure.what +
                      " failed: " + describe(failure.code));
}

}  // namespace

const Machine kMachine = {.why_not = why_not,
                          .linear = kLinearRows,
                          .attention = kAttentionRows,
                          .elementwise = kElementwiseRows,
                          .hadamard = kHadamardRows,
                          .convolution = kConvolutionRows,
                          .planning = kPlanningRows,
                          .run = run};

}  // namespace aerogel::cuda
