// A kind of machine as the operations see it: its lists of kernels, best first, and what a row needs of it.
#pragma once

#include <span>
#include <string>

#include "aerogel/tensor.h"
#include "base/function_ref.h"
#include "kernels/attention.h"
#include "kernels/convolution.h"
#include "kernels/elementwise.h"
#include "kernels/hadamard.h"
#include "kernels/linear.h"
#include "kernels/peak.h"
#include "kernels/planning.h"

namespace aerogel {

/// A row of a machine's list. The level counts in the machine's own way: a CpuLevel, an SM version.
template <typename Kernel>
struct MachineRow {
    int level;
    const Kernel* kernel;
    /// Null, or says why rows behind this one are faster on the machine at hand (else empty). Nobody asks
    /// where AEROGEL_KERNEL forces the row.
    std::string (*slow)() = nullptr;
};

template <typename Kernel>
using KernelList = std::span<const MachineRow<Kernel>>;

/// Rows of levels that the machine at hand lacks are listed too. An operation without rows is not supported.
struct Machine {
    /// Empty, or why the device cannot run rows of this level ("needs CPU level amx, allowed is avx2").
    std::string (*why_not)(Device device, int level);
    KernelList<LinearKernel> linear = {};
    KernelList<AttentionKernel> attention = {};
    KernelList<ElementwiseKernels> elementwise = {};
    KernelList<HadamardKernel> hadamard = {};
    KernelList<PeakKernel> peak = {};
    KernelList<ConvolutionKernel> convolution = {};
    KernelList<PlanningKernels> planning = {};
    /// Null, or calls `body`, which runs kernels, with the device made the calling thread's. Throws
    /// DeviceError when the device refused one of them.
    void (*run)(Device device, FunctionRef<void()> body) = nullptr;
};

}  // namespace aerogel
