// Kernels of a device for tests that hold their arrays on the host: every call copies them there, runs the
// row, and copies back what it may have written, gaps between rows included.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "aerogel/error.h"
#include "core/device_memory.h"
#include "kernels/machine.h"

namespace aerogel::testing {

/// The arrays of one call. What lies there is freed with it.
class Mirror {
  public:
    explicit Mirror(Device device) : device_(device), memory_(memory_of(device)) {}
    Mirror(const Mirror&) = delete;
    Mirror& operator=(const Mirror&) = delete;
    ~Mirror() {
        for (const Array& array : arrays_) memory_.free(device_, array.there, array.bytes);
    }

    /// A copy of `bytes` bytes there; null stays null.
    void* read(const void* here, std::int64_t bytes) { return add(here, nullptr, bytes); }
    template <typename T>
    const T* read(const T* here, std::int64_t count) {
        return static_cast<const T*>(add(here, nullptr, count * static_cast<std::int64_t>(sizeof(T))));
    }
    /// The same, which come back.
    void* write(void* here, std::int64_t bytes) { return add(here, here, bytes); }
    template <typename T>
    T* write(T* here, std::int64_t count) {
        return static_cast<T*>(add(here, here, count * static_cast<std::int64_t>(sizeof(T))));
    }
    std::byte* scratch(std::size_t bytes) {
        void* there = memory_.allocate(device_, bytes);
        arrays_.push_back({there, nullptr, bytes});
        return static_cast<std::byte*>(there);
    }
    /// The same array at two places of a call is one there, too.
    void bring_back() {
        for (const Array& array : arrays_)
            if (array.here != nullptr) memory_.to_host(device_, array.here, array.there, array.bytes);
    }

  private:
    struct Array {
        void* there;
        void* here;
        std::size_t bytes;
    };

    void* add(const void* here, void* back, std::int64_t bytes) {
        if (here == nullptr) return nullptr;
        const auto size = static_cast<std::size_t>(bytes);
        void* there = memory_.allocate(device_, size);
        memory_.from_host(device_, there, here, size);
        arrays_.push_back({there, back, size});
        return there;
    }

    Device device_;
    const DeviceMemory& memory_;
    std::vector<Array> arrays_;
};

/// Elements from the first to the last of rows that lie `stride` apart.
inline std::int64_t extent(std::int64_t rows, std::int64_t stride, std::int64_t columns) {
    return rows == 0 ? 0 : (rows - 1) * stride + columns;
}

/// Runs body(mirror) on the device and brings the arrays back; a device that fails fails the test.
template <typename Body>
void run_mirrored(const Machine& machine, Device device, const Body& body) noexcept {
    try {
        Mirror mirror(device);
        machine.run(device, [&] { body(mirror); });
        mirror.bring_back();
    } catch (const Error& error) {
        ADD_FAILURE() << error.what();
    }
}

/// The rows of a machine, given as a constant with linkage.
template <const Machine& kThere>
class MirroredMachine {
  public:
    static constexpr Device kDevice = Device::cuda;

    MirroredMachine() {
        const auto each = std::make_index_sequence<kMostRows>();
        add_linear(each);
        add_attention(each);
        add_elementwise(each);
        add_hadamard(each);
        add_convolution(each);
        machine_.why_not = kThere.why_not;
        machine_.linear = linear_.rows;
        machine_.attention = attention_.rows;
        machine_.elementwise = elementwise_.rows;
        machine_.hadamard = hadamard_.rows;
        machine_.convolution = convolution_.rows;
    }
    MirroredMachine(const MirroredMachine&) = delete;
    MirroredMachine& operator=(const MirroredMachine&) = delete;

    const Machine& machine() const { return machine_; }

  private:
    static constexpr std::size_t kMostRows = 32;

    template <typename Kernel>
    struct List {
        std::vector<Kernel> kernels;
        std::vector<MachineRow<Kernel>> rows;

        void add(KernelList<Kernel> there, std::size_t i, Kernel mirrored) {
            if (i >= there.size()) return;
            kernels.reserve(kMostRows);  // rows point into it
            kernels.push_back(mirrored);
            rows.push_back({there[i].level, &kernels.back()});
        }
    };

    template <typename Body>
    static void run(const Body& body) noexcept {
        run_mirrored(kThere, kDevice, body);
    }

    template <std::size_t I>
    static void run_linear(const LinearProblem& p, const LinearArgs& args) noexcept {
        run([&](Mirror& mirror) {
            LinearArgs there = args;
            const auto x_bytes = static_cast<std::int64_t>(size_of(p.x)),
                       y_bytes = static_cast<std::int64_t>(size_of(p.y));
            LinearProblem packing = p;
            packing.m = 0;
            const LinearKernel& kernel = *kThere.linear[I].kernel;
            there.x = mirror.read(args.x, extent(p.m, args.x_stride, p.k) * x_bytes);
            there.y = mirror.write(args.y, extent(p.m, args.y_stride, p.n) * y_bytes);
            there.packed = mirror.read(args.packed, static_cast<std::int64_t>(kernel.packed_bytes(packing)));
            there.mul_scale = mirror.read(args.mul_scale, p.k);
            there.rotation.factors = mirror.read(args.rotation.factors, p.k);
            there.column_order = mirror.read(args.column_order, p.k);
            there.bias = mirror.read(args.bias, p.n);
            there.quant_bias = mirror.read(args.quant_bias, p.n);
            there.deq_scale = mirror.read(args.deq_scale, p.n);
            there.workspace = mirror.scratch(kernel.workspace_bytes(p));
            kernel.run(p, there);
        });
    }
    template <std::size_t... I>
    void add_linear(std::index_sequence<I...>) {
        (linear_.add(kThere.linear, I, mirrored_linear<I>()), ...);
    }
    template <std::size_t I>
    static LinearKernel mirrored_linear() {
        if (I >= kThere.linear.size()) return {};
        LinearKernel kernel = *kThere.linear[I].kernel;
        kernel.run = run_linear<I>;
        return kernel;
    }

    /// Of all maps, whose tokens may come in any order.
    struct Side {
        std::int64_t batch, heads, tokens, head_dim;
    };
    static std::int64_t bytes_of(const AttentionStrides& strides, const Side& side, DType dtype) {
        if (side.batch * side.heads * side.tokens == 0) return 0;
        const std::int64_t last = (side.batch - 1) * strides.batch +
                                  (side.heads - 1) / strides.shared * strides.head +
                                  (side.tokens - 1) * strides.token + side.head_dim;
        return last * static_cast<std::int64_t>(size_of(dtype));
    }
    static void mirror_order(Mirror& mirror, AttentionStrides& strides, const Side& side) {
        if (strides.order == nullptr) return;
        std::vector<const std::int32_t*> orders;
        for (std::int64_t map = 0; map < side.batch * side.heads; ++map)
            orders.push_back(mirror.read(strides.order[map], side.tokens));
        strides.order = mirror.read(orders.data(), static_cast<std::int64_t>(orders.size()));
    }
    static void mirror_scales(Mirror& mirror, const AttentionProblem& p, Int8Arrays& arrays) {
        const std::int64_t d = p.kv_maps() * p.head_dim;
        const std::int64_t groups = (p.k_len + kQuantizedKeyGroup - 1) / kQuantizedKeyGroup;
        const bool shifted_by_mean = arrays.v_shift != nullptr && arrays.v_shift == arrays.v_mean;
        arrays.q_scale = mirror.write(arrays.q_scale, p.maps() * p.q_len);
        arrays.k_scale = mirror.write(arrays.k_scale, p.kv_maps() * p.k_len);
        arrays.v_scale = mirror.write(arrays.v_scale, groups * d);
        arrays.q_offset = mirror.write(arrays.q_offset, p.maps());
        arrays.k_offset = mirror.write(arrays.k_offset, p.kv_maps());
        arrays.v_offset = mirror.write(arrays.v_offset, p.kv_maps());
        arrays.k_mean = mirror.write(arrays.k_mean, d);
        arrays.v_mean = mirror.write(arrays.v_mean, d);
        arrays.v_shift = shifted_by_mean ? arrays.v_mean : mirror.write(arrays.v_shift, d);
        arrays.sums = mirror.write(arrays.sums, mean_portions(p.k_len) * d);
    }
    static AttentionCall mirror_call(Mirror& mirror, const AttentionProblem& p, const AttentionCall& call) {
        AttentionCall there = call;
        const Side q = {p.batch, p.heads, p.q_len, p.head_dim},
                   k = {p.batch, p.kv_heads, p.k_len, p.head_dim};
        there.q = mirror.read(call.q, bytes_of(call.q_strides, q, p.dtype));
        there.k = mirror.read(call.k, bytes_of(call.k_strides, k, p.dtype));
        there.v = mirror.read(call.v, bytes_of(call.v_strides, k, p.dtype));
        there.o = mirror.write(call.o, bytes_of(call.o_strides, q, p.dtype));
        mirror_order(mirror, there.q_strides, q);
        mirror_order(mirror, there.k_strides, k);
        mirror_order(mirror, there.v_strides, k);
        mirror_order(mirror, there.o_strides, q);
        there.bias = mirror.read(call.bias, p.heads * p.distances());
        if (p.masked) {
            const std::int64_t rows = p.maps() * p.q_blocks();
            there.mask.row_start = mirror.read(call.mask.row_start, rows + 1);
            there.mask.columns = mirror.read(call.mask.columns, call.mask.row_start[rows]);
        }
        if (p.format == AttentionFormat::int8) mirror_scales(mirror, p, there.int8);
        return there;
    }
    template <std::size_t I>
    static void run_attention(const AttentionProblem& p, const AttentionCall& call) noexcept {
        run([&](Mirror& mirror) {
            const AttentionKernel& kernel = *kThere.attention[I].kernel;
            AttentionCall there = mirror_call(mirror, p, call);
            there.workspace = mirror.scratch(kernel.workspace_bytes(p));
            kernel.run(p, there);
        });
    }
    template <std::size_t I>
    static void find_scales(const AttentionProblem& p, const AttentionCall& call) noexcept {
        run([&](Mirror& mirror) {
            kThere.attention[I].kernel->find_scales(p, mirror_call(mirror, p, call));
        });
    }
    template <std::size_t... I>
    void add_attention(std::index_sequence<I...>) {
        (attention_.add(kThere.attention, I, mirrored_attention<I>()), ...);
    }
    template <std::size_t I>
    static AttentionKernel mirrored_attention() {
        if (I >= kThere.attention.size()) return {};
        AttentionKernel kernel = *kThere.attention[I].kernel;
        kernel.run = run_attention<I>;
        if (kernel.find_scales != nullptr) kernel.find_scales = find_scales<I>;
        return kernel;
    }

    template <std::size_t I>
    static void run_hadamard(const HadamardArgs& args) noexcept {
        run([&](Mirror& mirror) {
            HadamardArgs there = args;
            there.x = mirror.read(args.x, extent(args.rows, args.x_stride, args.columns));
            there.y = mirror.write(args.y, extent(args.rows, args.y_stride, args.columns));
            there.signs = mirror.read(args.signs, args.columns);
            kThere.hadamard[I].kernel->run(there);
        });
    }
    template <std::size_t... I>
    void add_hadamard(std::index_sequence<I...>) {
        (hadamard_.add(kThere.hadamard, I,
                       {I < kThere.hadamard.size() ? kThere.hadamard[I].kernel->name : "", run_hadamard<I>}),
         ...);
    }

    template <std::size_t I>
    static void run_convolution(const ConvolutionProblem& p, const ConvolutionArgs& args) noexcept {
        run([&](Mirror& mirror) {
            ConvolutionArgs there = args;
            const ConvolutionKernel& kernel = *kThere.convolution[I].kernel;
            const std::int64_t frame = args.x_size.height * args.x_size.width * p.channels;
            const std::int64_t y_count = args.y_size.count() == 0
                                             ? 0
                                             : (args.y_size.frames - 1) * args.y_strides.frames +
                                                   (args.y_size.height - 1) * args.y_strides.height +
                                                   (args.y_size.width - 1) * args.y_strides.width +
                                                   p.out_channels;
            there.x = mirror.read(args.x, args.x_size.frames * frame);
            there.before = mirror.read(args.before, args.before_frames * frame);
            there.y = mirror.write(args.y, y_count);
            there.add = args.add == args.y ? there.y : mirror.read(args.add, y_count);
            there.bias = mirror.read(args.bias, p.out_channels);
            there.packed = mirror.read(args.packed, static_cast<std::int64_t>(kernel.packed_bytes(p)));
            there.workspace = mirror.scratch(kernel.workspace_bytes(p, args.y_size.count()));
            kernel.run(p, there);
        });
    }
    template <std::size_t... I>
    void add_convolution(std::index_sequence<I...>) {
        (convolution_.add(kThere.convolution, I, mirrored_convolution<I>()), ...);
    }
    template <std::size_t I>
    static ConvolutionKernel mirrored_convolution() {
        if (I >= kThere.convolution.size()) return {};
        ConvolutionKernel kernel = *kThere.convolution[I].kernel;
        kernel.run = run_convolution<I>;
        return kernel;
    }

    template <std::size_t... I>
    void add_elementwise(std::index_sequence<I...>) {
        (elementwise_.add(kThere.elementwise, I, mirrored_elementwise<I>()), ...);
    }
    template <std::size_t I, typename Args>
    static void each(void (*ElementwiseKernels::*member)(const Args&) noexcept, const Args& args) noexcept {
        run([&](Mirror& mirror) { (kThere.elementwise[I].kernel->*member)(mirrored(mirror, args)); });
    }
    template <std::size_t I>
    static ElementwiseKernels mirrored_elementwise();

    List<LinearKernel> linear_;
    List<AttentionKernel> attention_;
    List<ElementwiseKernels> elementwise_;
    List<HadamardKernel> hadamard_;
    List<ConvolutionKernel> convolution_;
    Machine machine_ = {};
};

}  // namespace aerogel::testing

#include "kernels/mirrored_elementwise.h"
