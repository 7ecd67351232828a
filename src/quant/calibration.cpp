// Reservoirs of input rows; ranges collected and averaged; files of both.
#include "quant/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#include "aerogel/error.h"
#include "aerogel/number_types.h"
#include "core/text.h"

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

// --- ranges

namespace {

constexpr std::string_view kForwards = ".forwards";

// NaN fails both comparisons below, so it is looked for on its own.
struct Extremes {
    float min = std::numeric_limits<float>::infinity();
    float max = -std::numeric_limits<float>::infinity();
    bool nan = false;

    void add(float x) {
        min = x < min ? x : min;
        max = x > max ? x : max;
        nan |= x != x;
    }
    bool finite() const { return !nan && std::isfinite(min) && std::isfinite(max); }
};

Extremes extremes_of_row(const TensorView& x, std::int64_t first, std::int64_t count) {
    Extremes result;
    if (x.dtype == DType::f32) {
        const auto* values = static_cast<const float*>(x.data) + first;
        for (std::int64_t i = 0; i < count; ++i) result.add(values[i]);
    } else {
        const auto* values = static_cast<const BFloat16*>(x.data) + first;
        for (std::int64_t i = 0; i < count; ++i) result.add(to_float(values[i]));
    }
    return result;
}

// x as rows: contiguous, or a matrix with a row stride.
Extremes extremes(const std::string& layer, const TensorView& x) {
    const bool typed = x.dtype == DType::f32 || x.dtype == DType::bf16;
    const bool strided = !x.contiguous() && x.shape.size() == 2 && x.strides.at(1) == 1;
    if (!typed || x.count() == 0 || (!x.contiguous() && !strided)) {
        throw InvalidArgument(fmt::format(
            "[calibrate] the input of {} must be f32 or bf16 rows, not empty, got {}", layer, x.describe()));
    }
    if (!strided) return extremes_of_row(x, 0, x.count());
    Extremes result;
    for (std::int64_t row = 0; row < x.dim(0); ++row) {
        const Extremes one = extremes_of_row(x, row * x.strides[0], x.dim(1));
        result.min = std::min(result.min, one.min);
        result.max = std::max(result.max, one.max);
        result.nan = result.nan || one.nan;
    }
    return result;
}

Tensor stats_tensor(const SafetensorsFile& file, const std::string& name, DType dtype) {
    Tensor tensor = file.tensor(name);
    if (tensor.dtype() != dtype || tensor.shape().size() != 1 || tensor.count() == 0) {
        throw InvalidArgument(fmt::format("[calibrate] {}: '{}' must be {}[steps], got {}",
                                          file.path().string(), name, to_string(dtype), tensor.describe()));
    }
    return tensor.clone();
}

constexpr std::int64_t kMostSteps = 100'000;
constexpr std::int64_t kMostForwards = std::int64_t{1} << 40;  // sums over steps stay far from overflow

// Says what is wrong in step `i` of a layer in a file, if anything: each sum is one over so many float32s.
void check_step(const std::string& where, std::int64_t step, std::int64_t forwards, double min, double max) {
    const auto refuse = [&](const char* what) {
        throw InvalidArgument(fmt::format("{} in step {}: {}, got {} forwards, min_sum {}, max_sum {}", where,
                                          step, what, forwards, min, max));
    };
    if (forwards < 0 || forwards > kMostForwards) refuse("forwards must be between 0 and 2^40");
    if (!std::isfinite(min) || !std::isfinite(max)) refuse("sums must be finite");
    if (min > max) refuse("min_sum must not be above max_sum");
    const double most =
        static_cast<double>(std::numeric_limits<float>::max()) * static_cast<double>(forwards);
    if (std::abs(min) > most || std::abs(max) > most) refuse("sums must be means of float32 values");
}

template <typename T>
Tensor to_tensor(DType dtype, const std::vector<T>& values) {
    Tensor tensor(dtype, {static_cast<std::int64_t>(values.size())});
    std::copy(values.begin(), values.end(), tensor.mutable_as<T>());
    return tensor;
}

}  // namespace

CalibrationStats::CalibrationStats(int steps, std::int64_t sample_rows)
    : steps_(steps), samples_(sample_rows) {
    if (steps < 1 || sample_rows < 0) {
        throw InvalidArgument(
            fmt::format("[calibrate] steps must be at least 1 and the rows kept not negative, got {} and {}",
                        steps, sample_rows));
    }
}

void CalibrationStats::observe(const std::string& layer, int step, const TensorView& x) {
    if (step < 0 || step >= steps_) {
        throw InvalidArgument(fmt::format("[calibrate] step must be in [0, {}), got {}", steps_, step));
    }
    const Extremes seen = extremes(layer, x);
    if (!seen.finite()) {
        throw InvalidArgument(
            fmt::format("[calibrate] the input of {} is not finite in step {}", layer, step));
    }
    Sums& sums = layers_[layer];
    if (sums.forwards.empty()) {
        const auto steps = static_cast<std::size_t>(steps_);
        sums = {std::vector<double>(steps), std::vector<double>(steps), std::vector<std::int64_t>(steps)};
    }
    const auto at = static_cast<std::size_t>(step);
    sums.min[at] += static_cast<double>(seen.min);
    sums.max[at] += static_cast<double>(seen.max);
    ++sums.forwards[at];
    samples_.observe(layer, step, x);
}

std::vector<std::string> CalibrationStats::layer_names() const {
    std::vector<std::string> names;
    for (const auto& [name, sums] : layers_) names.push_back(name);
    return names;
}

const CalibrationStats::Sums& CalibrationStats::sums(const std::string& layer) const {
    const auto found = layers_.find(layer);
    if (found != layers_.end()) return found->second;
    throw InvalidArgument(fmt::format("[calibrate] no input of {} was measured, only of {} other layers{}",
                                      layer, layers_.size(), suggestion(layer, layer_names())));
}

InputRange CalibrationStats::range(const std::string& layer) const {
    return ranges_by_step(layer).front();
}

const std::vector<std::int64_t>& CalibrationStats::forwards(const std::string& layer) const {
    return sums(layer).forwards;
}

std::vector<InputRange> CalibrationStats::ranges_by_step(const std::string& layer) const {
    const Sums& sums = this->sums(layer);
    const auto steps = static_cast<std::size_t>(steps_);
    std::vector<InputRange> ranges(steps);
    double min = 0.0, max = 0.0;
    std::int64_t forwards = 0;
    std::size_t last = steps - 1;
    while (last > 0 && sums.forwards[last] == 0) --last;
    for (std::size_t step = last + 1; step-- > 0;) {
        min += sums.min[step];
        max += sums.max[step];
        forwards += sums.forwards[step];
        const auto count = static_cast<double>(forwards);
        ranges[step] = {static_cast<float>(min / count), static_cast<float>(max / count)};
    }
    std::fill(ranges.begin() + static_cast<std::ptrdiff_t>(last), ranges.end(), ranges[last]);
    return ranges;
}

std::int64_t CalibrationStats::forwards(const std::string& layer, int step) const {
    const auto found = layers_.find(layer);
    return found == layers_.end() ? 0 : found->second.forwards.at(static_cast<std::size_t>(step));
}

void CalibrationStats::merge(const CalibrationStats& other) {
    if (steps_ == 0) steps_ = other.steps_;
    if (other.steps_ != steps_) {
        throw InvalidArgument(fmt::format(
            "[calibrate] statistics of {} steps cannot be merged with those of {}", other.steps_, steps_));
    }
    for (const auto& [name, added] : other.layers_) {
        const auto [place, is_new] = layers_.emplace(name, added);
        if (is_new) continue;
        Sums& sums = place->second;
        for (std::size_t step = 0; step < sums.forwards.size(); ++step) {
            sums.min[step] += added.min[step];
            sums.max[step] += added.max[step];
            sums.forwards[step] += added.forwards[step];
        }
    }
    samples_.merge(other.samples_);
}

bool CalibrationStats::is_statistics(const SafetensorsFile& file) {
    return !file.names().empty() &&
           std::all_of(file.names().begin(), file.names().end(), [](const std::string& name) {
               return name.ends_with(".min_sum") || name.ends_with(".max_sum") || name.ends_with(kForwards) ||
                      name.ends_with(".inputs") || name.ends_with(".input_steps");
           });
}

void CalibrationStats::save(const std::filesystem::path& path) const {
    std::map<std::string, Tensor> tensors;
    for (const auto& [name, sums] : layers_) {
        tensors[name + ".min_sum"] = to_tensor(DType::f64, sums.min);
        tensors[name + ".max_sum"] = to_tensor(DType::f64, sums.max);
        tensors[name + std::string(kForwards)] = to_tensor(DType::i64, sums.forwards);
    }
    samples_.add_to(tensors);
    save_safetensors(path, tensors);
}

CalibrationStats CalibrationStats::load(const std::filesystem::path& path) {
    const SafetensorsFile file = SafetensorsFile::open(path);
    CalibrationStats stats;
    for (const auto& name : file.names()) {
        if (!name.ends_with(kForwards)) continue;
        const std::string layer = name.substr(0, name.size() - kForwards.size());
        const Tensor forwards = stats_tensor(file, name, DType::i64);
        const Tensor min = stats_tensor(file, layer + ".min_sum", DType::f64);
        const Tensor max = stats_tensor(file, layer + ".max_sum", DType::f64);
        const auto steps = static_cast<int>(std::min(forwards.count(), kMostSteps + 1));
        if (stats.steps_ == 0) stats.steps_ = steps;
        const auto* counts = forwards.as<std::int64_t>();
        if (forwards.count() > kMostSteps || steps != stats.steps_ || min.count() != steps ||
            max.count() != steps ||
            std::all_of(counts, counts + steps, [](std::int64_t n) { return n == 0; })) {
            throw InvalidArgument(fmt::format(
                "[calibrate] {}: the tensors of {} must hold forwards of {} steps, got {}, {}, {}",
                path.string(), layer, stats.steps_, forwards.describe(), min.describe(), max.describe()));
        }
        for (std::int64_t i = 0; i < steps; ++i) {
            check_step(fmt::format("[calibrate] {}: {}", path.string(), in_quotes(layer)), i, counts[i],
                       min.as<double>()[i], max.as<double>()[i]);
        }
        stats.layers_[layer] = {{min.as<double>(), min.as<double>() + steps},
                                {max.as<double>(), max.as<double>() + steps},
                                {counts, counts + steps}};
        if (file.contains(layer + ".inputs")) {
            stats.samples_.restore(layer, file.tensor(layer + ".inputs"), file.tensor(layer + ".input_steps"),
                                   steps);
        }
    }
    file.check_intact();
    if (stats.layers_.empty()) {
        throw InvalidArgument("[calibrate] " + path.string() + " holds no calibration statistics");
    }
    return stats;
}

}  // namespace aerogel
