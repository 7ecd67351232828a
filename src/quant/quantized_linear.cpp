// QuantizedLinear: packs the weight once and picks the activation scales of the step it runs in.
#include "aerogel/quantized_linear.h"

#include <fmt/format.h>

#include <mutex>
#include <optional>
#include <utility>

#include "aerogel/error.h"
#include "ops/linear.h"
#include "quant/layer_arrays.h"
#include "quant/linear_branches.h"
#include "quant/schemes.h"

namespace aerogel {
namespace {

std::size_t count_bytes(const QuantizedLinearWeights& weights) {
    std::size_t total = 0;
    for (const LayerArray& array : layer_arrays()) {
        if (!array.has_member() || !array.in(weights).defined()) continue;
        const Tensor& tensor = array.in(weights);
        total += array.form == ArrayForm::signs ? static_cast<std::size_t>(tensor.count()) : tensor.bytes();
    }
    return total;
}

// Eight bits instead of four; every other kind stays as it is.
Activation wide_activation(Activation activation) {
    switch (activation) {
        case Activation::per_token_int4:
            return Activation::per_token;
        case Activation::mxfp4:
        case Activation::mxfp4_dual:
            return Activation::mxfp8;
        default:
            return activation;
    }
}

// What kernels read beside the weight, on the device; undefined while the weight waits in host memory.
QuantizedLinearWeights moved(QuantizedLinearWeights weights, Device device,
                             WeightPlace place = WeightPlace::device) {
    for (const LayerArray& array : layer_arrays()) {
        if (array.own == nullptr || !array.in(weights).defined()) continue;
        array.in(weights) = place == WeightPlace::host ? Tensor() : array.in(weights).to(device);
    }
    return weights;
}

const SchemeRow& checked_scheme(const QuantizedLinearWeights& weights) {
    check_layer(weights);
    return scheme_row("quantized_linear", weights.scheme);
}

}  // namespace

struct QuantizedLinear::State {
    State(QuantizedLinearWeights given, Device place, KeptArrays kept)
        : weights(std::move(given)),
          scheme(checked_scheme(weights)),
          device(place),
          arrays(moved(weights, device)),
          packed(weights.weight, scheme.activation, device),
          branches(weights, device),
          bytes(weights.stored_bytes != 0 ? weights.stored_bytes : count_bytes(weights)) {
        if (device != Device::cpu && branches.reorders() && !kernel_prepares(packed)) {
            throw Unsupported(fmt::format(
                "[linear] a layer in act order that {} cannot order and rotate on its way runs on the CPU, "
                "not on {}",
                packed.kernel_name(), device.describe()));
        }
        if (kept == KeptArrays::all || !packed_serves_all()) return;
        for (QuantizedTensor* weight : {&weights.weight, &arrays.weight})
            weight->data = weight->scale = weight->offset = weight->dual_scale = Tensor();
        weights.check_intact = arrays.check_intact = nullptr;
    }

    bool packed_serves_all() const {
        const bool dynamic =
            scheme.activation != Activation::per_tensor || packed.serves(Activation::per_token);
        return dynamic && packed.serves(scheme.activation) &&
               packed.serves(wide_activation(scheme.activation));
    }

    // The set of static scales of this step, or none where activations are not quantized or are so per token.
    std::optional<std::int64_t> static_set(const StepContext& step) const {
        if (!scheme.per_step) return weights.steps() == 0 ? std::nullopt : std::optional<std::int64_t>(0);
        if (step.dynamic) return std::nullopt;
        const std::int64_t steps = weights.steps();
        if (step.timestep_index < 0 || step.timestep_index >= steps) {
            const bool told = step.timestep_index >= 0;
            throw InvalidArgument(
                fmt::format("[quantized_linear] {} holds scales of {} steps: the timestep index must be in "
                            "[0, {}), got {}",
                            scheme.name, steps, steps, told ? std::to_string(step.timestep_index) : "none"));
        }
        return step.timestep_index;
    }

    // What this step does with x where it has no static scales.
    Activation activation(const StepContext& step) const {
        if (scheme.activation == Activation::per_tensor) return Activation::per_token;
        return step.wide_activations ? wide_activation(scheme.activation) : scheme.activation;
    }

    // The weight for these activations. Where the kernels of two activations do not share a packed form, the
    // second one is made when a step first asks for it.
    const PackedLinear& packed_for(Activation activation) const {
        if (packed.serves(activation)) return packed;
        std::call_once(wide_once, [&] {
            PackedLinear wide(weights.weight, activation, device);
            if (weights.check_intact) weights.check_intact();
            wide_packed.emplace(std::move(wide));
        });
        return *wide_packed;
    }

    void move_weight(WeightPlace place) {
        if (device == Device::cpu) return;
        packed.move(place);
        if (wide_packed) wide_packed->move(place);
        branches.move(place);
        arrays = moved(weights, device, place);
    }

    // Whether the kernel may do on its way what x has before it. Static scales of four bits clamp x first.
    bool kernel_prepares(const PackedLinear& weight) const {
        if (branches.adds() || (branches.reorders() && !weight.orders())) return false;
        return !branches.rotates() || (scheme.static_bits != 4 && weight.rotates(branches.rotation().shape));
    }
    bool kernel_prepares(const StepContext& step) const {
        return kernel_prepares(static_set(step) ? packed : packed_for(activation(step)));
    }

    // The product with the quantized weight, and the bias. `prepares`: the kernel orders and rotates x.
    void multiply(const TensorView& x, const MutableView& y, const StepContext& step,
                  bool prepares = false) const {
        packed.require_here();
        const bool widened = scheme.static_bits == 4 && step.wide_activations;
        const auto set = widened ? std::nullopt : static_set(step);
        LinearArgs args;
        if (prepares && branches.rotates()) args.rotation = branches.rotation();
        if (prepares && branches.reorders()) args.column_order = branches.order();
        if (arrays.mul_scale.defined() && !branches.rotates()) args.mul_scale = arrays.mul_scale.as<float>();
        if (set) {
            args.input_scale = weights.input_scale.as<float>()[*set];
            args.input_offset = weights.input_offset.as<float>()[*set];
            args.quant_bias = arrays.quant_bias.as<std::int32_t>() + *set * weights.weight.rows;
            args.deq_scale = arrays.deq_scale.as<float>() + *set * weights.weight.rows;
            if (scheme.static_bits == 8) return packed.run(x, y, Activation::per_tensor, args, step.call);
            const float low = (-8.0F - args.input_offset) * args.input_scale;
            const float high = (7.0F - args.input_offset) * args.input_scale;
            const Tensor rows =
                clamped_rows(x, weights.weight.columns, args.mul_scale, {low, high}, step.call);
            args.mul_scale = nullptr;
            return packed.run(rows, y, Activation::per_tensor, args, step.call);
        }
        if (arrays.bias.defined()) args.bias = arrays.bias.as<float>();
        const Activation kind = activation(step);
        packed_for(kind).run(x, y, kind, args, step.call);
    }

    QuantizedLinearWeights weights;
    const SchemeRow& scheme;
    Device device;
    QuantizedLinearWeights arrays;  ///< what the kernels read, on the device
    PackedLinear packed;
    LinearBranches branches;
    mutable std::once_flag wide_once;
    mutable std::optional<PackedLinear> wide_packed;
    std::size_t bytes;
};

QuantizedLinear::QuantizedLinear(QuantizedLinearWeights weights, Device device, KeptArrays kept)
    : state_(std::make_unique<State>(std::move(weights), device, kept)) {}
QuantizedLinear::~QuantizedLinear() = default;

std::int64_t QuantizedLinear::in_features() const {
    return state_->weights.weight.columns;
}

std::int64_t QuantizedLinear::out_features() const {
    return state_->weights.weight.rows;
}

void QuantizedLinear::forward(const TensorView& x, const MutableView& y, const StepContext& step) const {
    if (state_->branches.none()) return state_->multiply(x, y, step);
    if (state_->kernel_prepares(step)) return state_->multiply(x, y, step, true);
    state_->branches.run(
        x, y,
        [&](const TensorView& rows, const MutableView& product) { state_->multiply(rows, product, step); },
        step.call);
}

std::string QuantizedLinear::scheme() const {
    const QuantizedLinearWeights& weights = state_->weights;
    const auto rotation = weights.rotation.defined() ? std::optional(weights.rotation_kind) : std::nullopt;
    return join_quant_type({std::string(state_->scheme.name), weights.low_rank_l1.defined(), rotation});
}

std::size_t QuantizedLinear::weight_bytes() const {
    return state_->bytes;
}

void QuantizedLinear::move_weight(WeightPlace place) {
    state_->move_weight(place);
}

const QuantizedLinearWeights& QuantizedLinear::weights() const {
    return state_->weights;
}

}  // namespace aerogel
