// Reservoirs of input rows.
#include "quant/input_samples.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "aerogel/error.h"
#include "aerogel/number_types.h"

namespace aerogel {
namespace {

// (0, 1), the same on every machine: the standard's distributions are not.
double uniform(std::mt19937_64& random) {
    return (static_cast<double>(random() >> 11) + 0.5) / 9007199254740992.0;
}

void copy_row(const TensorView& x, std::int64_t row, BFloat16* to) {
    const std::int64_t columns = x.shape.back();
    const std::int64_t stride = x.contiguous() ? columns : x.strides[0];
    if (x.dtype == DType::bf16) {
        std::copy_n(static_cast<const BFloat16*>(x.data) + row * stride, columns, to);
        return;
    }
    const auto* from = static_cast<const float*>(x.data) + row * stride;
    for (std::int64_t i = 0; i < columns; ++i) to[i] = to_bfloat16(from[i]);
}

}  // namespace

void InputSamples::skip(Reservoir& reservoir) const {
    reservoir.weight *= std::exp(std::log(uniform(reservoir.random)) / static_cast<double>(capacity_));
    const double gap = std::floor(std::log(uniform(reservoir.random)) / std::log1p(-reservoir.weight));
    // Beyond 2^62 rows nothing more is ever kept.
    reservoir.next += static_cast<std::int64_t>(std::min(gap, 0x1p62)) + 1;
}

void InputSamples::observe(const std::string& layer, int step, const TensorView& x) {
    if (capacity_ == 0 || x.count() == 0) return;
    const std::int64_t columns = x.shape.back(), count = x.count() / columns;
    Reservoir& reservoir = reservoirs_[layer];
    if (!reservoir.rows.defined()) {
        reservoir.rows = Tensor(DType::bf16, {capacity_, columns});
        reservoir.weight = 1.0;
        reservoir.next = capacity_ - 1;
        skip(reservoir);
    }
    auto* rows = reservoir.rows.mutable_as<BFloat16>();
    const std::int64_t filling = std::clamp(capacity_ - reservoir.seen, std::int64_t{0}, count);
    for (std::int64_t row = 0; row < filling; ++row) {
        copy_row(x, row, rows + (reservoir.seen + row) * columns);
        reservoir.steps.push_back(step);
    }
    for (; reservoir.next < reservoir.seen + count; skip(reservoir)) {
        const auto place =
            static_cast<std::int64_t>(uniform(reservoir.random) * static_cast<double>(capacity_));
        copy_row(x, reservoir.next - reservoir.seen, rows + place * columns);
        reservoir.steps[static_cast<std::size_t>(place)] = step;
    }
    reservoir.seen += count;
}

LayerInputs InputSamples::of(const std::string& layer) const {
    const auto found = reservoirs_.find(layer);
    if (found == reservoirs_.end()) {
        throw InvalidArgument(
            fmt::format("[calibrate] no inputs of {} were kept, only those of {} other layers", layer,
                        reservoirs_.size()));
    }
    const Tensor& rows = found->second.rows;
    const auto kept = static_cast<std::int64_t>(found->second.steps.size());
    return {Tensor(DType::bf16, {kept, rows.dim(1)}, rows.data(), std::make_shared<Tensor>(rows)),
            found->second.steps};
}

void InputSamples::merge(const InputSamples& other) {
    for (const auto& [layer, reservoir] : other.reservoirs_) {
        const LayerInputs added = other.of(layer);
        if (!contains(layer)) {
            Reservoir& own = reservoirs_[layer];
            own.rows = added.rows;
            own.steps = added.steps;
            continue;
        }
        const LayerInputs before = of(layer);
        if (before.rows.dim(1) != added.rows.dim(1)) {
            throw InvalidArgument(fmt::format("[calibrate] inputs of {} cannot be merged: {} and {}", layer,
                                              before.rows.describe(), added.rows.describe()));
        }
        Reservoir& own = reservoirs_[layer];
        own.rows = Tensor(DType::bf16, {before.rows.dim(0) + added.rows.dim(0), before.rows.dim(1)});
        std::memcpy(own.rows.mutable_data(), before.rows.data(), before.rows.bytes());
        std::memcpy(static_cast<std::byte*>(own.rows.mutable_data()) + before.rows.bytes(), added.rows.data(),
                    added.rows.bytes());
        own.steps.insert(own.steps.end(), added.steps.begin(), added.steps.end());
    }
}

void InputSamples::add_to(std::map<std::string, Tensor>& tensors) const {
    for (const auto& [layer, reservoir] : reservoirs_) {
        tensors[layer + ".inputs"] = of(layer).rows;
        Tensor steps(DType::i32, {static_cast<std::int64_t>(reservoir.steps.size())});
        std::copy(reservoir.steps.begin(), reservoir.steps.end(), steps.mutable_as<std::int32_t>());
        tensors[layer + ".input_steps"] = steps;
    }
}

void InputSamples::restore(const std::string& layer, const Tensor& rows, const Tensor& steps,
                           int step_count) {
    const bool fits = rows.dtype() == DType::bf16 && rows.shape().size() == 2 && rows.count() != 0 &&
                      steps.dtype() == DType::i32 && steps.shape() == Shape{rows.dim(0)};
    if (!fits) {
        throw InvalidArgument(
            fmt::format("[calibrate] the inputs of {} must be bf16[rows,k] and i32[rows], got {} and {}",
                        layer, rows.describe(), steps.describe()));
    }
    Reservoir reservoir;
    reservoir.steps.assign(steps.as<std::int32_t>(), steps.as<std::int32_t>() + steps.count());
    reservoir.rows = rows.clone();
    for (std::size_t i = 0; i < reservoir.steps.size(); ++i) {
        if (reservoir.steps[i] >= 0 && reservoir.steps[i] < step_count) continue;
        throw InvalidArgument(
            fmt::format("[calibrate] '{}.input_steps' must be in [0, {}), got {} at element {}", layer,
                        step_count, reservoir.steps[i], i));
    }
    const auto* values = reservoir.rows.as<BFloat16>();
    for (std::int64_t i = 0; i < reservoir.rows.count(); ++i) {
        if (std::isfinite(to_float(values[i]))) continue;
        throw InvalidArgument(fmt::format("[calibrate] '{}.inputs' has the value {} at element {}", layer,
                                          to_float(values[i]), i));
    }
    reservoirs_[layer] = std::move(reservoir);
}

}  // namespace aerogel
