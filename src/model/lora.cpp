// Keys become changes of layers; all is checked before the first layer is exchanged for one that adds its
// changes whenever its weight is read.
#include "aerogel/lora.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "aerogel/error.h"
#include "aerogel/safetensors.h"
#include "core/finite.h"
#include "core/json.h"
#include "core/text.h"
#include "core/views.h"
#include "model/linears_by_name.h"
#include "model/lora_keys.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

constexpr std::int64_t kRowsAtOnce = 1024;

// scale * up * down, f32 on the CPU.
struct LowRank {
    Tensor down;  ///< [rank, in_features]
    Tensor up;    ///< [out_features, rank]
    double scale = 1.0;
};

// What becomes of one Linear.
struct LayerChange {
    std::optional<LowRank> weight;
    Tensor bias;  ///< [out_features], times the file's weight already
};

// sum += scale * up * down, in place.
void add_low_rank(const LowRank& change, Tensor& sum) {
    const std::int64_t rank = change.down.dim(0), columns = change.down.dim(1);
    Tensor down(DType::f32, {columns, rank});
    copy(part_of(change.down.view(), 0, {columns, rank}, {1, columns}), down);
    const FloatLinear product(down, Tensor());
    Tensor part(DType::f32, {std::min(kRowsAtOnce, sum.dim(0)), columns});
    for (std::int64_t first = 0; first < sum.dim(0); first += kRowsAtOnce) {
        const std::int64_t count = std::min(kRowsAtOnce, sum.dim(0) - first);
        const MutableView delta = rows_of(part.mutable_view(), 0, count);
        const MutableView rows = rows_of(sum.mutable_view(), first, count);
        product.forward(rows_of(change.up.view(), first, count), delta, {});
        combine({{1.0, rows}, {change.scale, delta}}, rows);
    }
}

std::unique_ptr<Linear> changed(const FloatLinear& linear, const LayerChange& change, Device device) {
    StoredWeight weight = linear.stored();
    if (change.weight) {
        weight.read = [read = std::move(weight.read), low_rank = *change.weight] {
            const Tensor base = read();
            Tensor sum(DType::f32, base.shape());
            copy(base.device() == Device::cpu ? base : base.to(Device::cpu), sum);
            add_low_rank(low_rank, sum);
            return sum.to(base.dtype());
        };
    }
    Tensor bias = linear.bias();
    if (change.bias.defined()) {
        Tensor sum = change.bias.clone();
        if (bias.defined()) combine({{1.0, sum}, {1.0, bias.to(Device::cpu)}}, sum);
        bias = sum;
    }
    return std::make_unique<FloatLinear>(std::move(weight), bias, device);
}

// The n rows of one layer among those of all that the file has as one.
Tensor own_rows(const Tensor& all, const NamedPart& named, std::int64_t n) {
    Tensor own(DType::f32, {n, all.dim(1)});
    const TensorView rows = rows_of(all.view(), static_cast<std::int64_t>(named.part) * n, n);
    const std::int64_t half = named.swap_halves ? n / 2 : 0;
    copy(rows_of(rows, half, n - half), rows_of(own.mutable_view(), 0, n - half));
    copy(rows_of(rows, 0, half), rows_of(own.mutable_view(), n - half, half));
    return own;
}

class LoraReader {
  public:
    LoraReader(const LayeredModel& model, const LoraFile& lora)
        : model_(model), lora_(lora), file_(SafetensorsFile::open(lora.path)), keys_(lora_keys(file_)) {}

    std::map<std::string, LayerChange> read() {
        if (!std::isfinite(lora_.weight))
            fail(fmt::format("its weight must be finite, got {}", lora_.weight));
        const auto linears = linears_by_name(model_);
        std::vector<std::string> strangers = keys_.unknown;
        for (const auto& [module, parts] : keys_.modules) {
            const auto found = linears.find(module);
            if (found == linears.end()) {
                for (const std::string& key : parts.keys()) strangers.push_back(key);
            } else {
                add(parts, found->second);
            }
        }
        check_strangers(strangers);
        if (changes_.empty()) fail("it has no layers of LoRA");
        file_.check_intact();
        return std::move(changes_);
    }

  private:
    [[noreturn]] void fail(const std::string& what) const {
        throw InvalidArgument(fmt::format("[lora] {}: {}", lora_.path.string(), what));
    }

    void check_strangers(const std::vector<std::string>& keys) const {
        constexpr std::size_t kShownKeys = 5;
        if (keys.empty()) return;
        std::string text = fmt::format("no Linear of the model fits {}:", counted(keys.size(), "key"));
        for (std::size_t i = 0; i < std::min(keys.size(), kShownKeys); ++i)
            text += (i == 0 ? " " : ", ") + keys[i];
        if (keys.size() > kShownKeys) text += ", ...";
        fail(text);
    }

    Tensor values(const std::string& key) const {
        const TensorInfo& info = file_.info(key);
        if (info.dtype != DType::f32 && info.dtype != DType::bf16 && info.dtype != DType::f16) {
            fail(fmt::format("'{}' must be f32, bf16 or f16, got {}{}", key, to_string(info.dtype),
                             to_string(info.shape)));
        }
        const Tensor tensor = file_.tensor(key).to(DType::f32);  // a copy
        const std::string problem = finite_problem(key, tensor);
        if (!problem.empty()) fail(problem);
        return tensor;
    }

    void add(const LoraModule& parts, const std::vector<NamedPart>& linears) {
        for (const NamedPart& named : linears) {
            const auto* linear = dynamic_cast<const FloatLinear*>(&model_.linear(named.linear));
            if (linear == nullptr) {
                fail(fmt::format("{} is {} already: LoRA is merged into float weights, before quantizing",
                                 named.linear, model_.linear(named.linear).scheme()));
            }
            LayerChange change;
            if (!parts.down.empty() || !parts.up.empty()) change.weight = low_rank(parts, named, *linear);
            if (!parts.bias.empty()) change.bias = bias(parts.bias, named, *linear);
            if (!change.weight && !change.bias.defined()) {
                fail(fmt::format("layer {} has '{}' and nothing to scale", named.linear, parts.alpha));
            }
            if (!changes_.try_emplace(named.linear, std::move(change)).second)
                fail(fmt::format("layer {} is there twice, under two names", named.linear));
        }
    }

    LowRank low_rank(const LoraModule& parts, const NamedPart& named, const FloatLinear& linear) const {
        if (parts.down.empty() || parts.up.empty()) {
            fail(fmt::format("layer {} has '{}' without its other half", named.linear,
                             parts.down.empty() ? parts.up : parts.down));
        }
        const std::int64_t n = linear.out_features(), k = linear.in_features();
        const auto count = static_cast<std::int64_t>(named.parts);
        const Shape down = file_.info(parts.down).shape, up = file_.info(parts.up).shape;
        const bool fits = down.size() == 2 && up.size() == 2 && down[0] > 0 && down[0] == up[1] &&
                          down[1] == k && up[0] == count * n;
        if (!fits) {
            fail(fmt::format("layer {} needs '{}' [rank,{}] and '{}' [{},rank], got {} and {}", named.linear,
                             parts.down, k, parts.up, count * n, to_string(down), to_string(up)));
        }
        return {values(parts.down), own_rows(values(parts.up), named, n),
                lora_.weight * scale(named.linear, parts, down[0])};
    }

    // alpha / rank; 1 where the file does not say alpha.
    double scale(const std::string& linear, const LoraModule& parts, std::int64_t rank) const {
        if (parts.alpha.empty()) return keys_.metadata.scale(linear, rank);
        const Tensor alpha = values(parts.alpha);
        if (alpha.count() != 1)
            fail(fmt::format("'{}' must be one number, got {}", parts.alpha, alpha.describe()));
        return static_cast<double>(alpha.values()[0]) / static_cast<double>(rank);
    }

    Tensor bias(const std::string& key, const NamedPart& named, const FloatLinear& linear) const {
        const std::int64_t n = linear.out_features();
        const Tensor all = values(key);
        if (all.shape() != Shape{static_cast<std::int64_t>(named.parts) * n}) {
            fail(fmt::format("layer {} needs '{}' [{}], got {}", named.linear, key,
                             static_cast<std::int64_t>(named.parts) * n, all.describe()));
        }
        Tensor own = own_rows(all.reshaped({all.dim(0), 1}), named, n).reshaped({n});
        combine({{lora_.weight, own}}, own);
        return own;
    }

    const LayeredModel& model_;
    const LoraFile& lora_;
    SafetensorsFile file_;
    LoraKeys keys_;
    std::map<std::string, LayerChange> changes_;
};

}  // namespace

std::vector<std::string> load_lora(LayeredModel& model, const LoraFile& lora) {
    const std::map<std::string, LayerChange> changes = LoraReader(model, lora).read();
    std::vector<std::string> names;
    std::vector<std::unique_ptr<Linear>> layers;
    for (const std::string& name : model.linear_names()) {
        const auto change = changes.find(name);
        if (change == changes.end()) continue;
        names.push_back(name);
        layers.push_back(
            changed(dynamic_cast<const FloatLinear&>(model.linear(name)), change->second, model.device()));
    }
    for (std::size_t i = 0; i < names.size(); ++i) model.replace_linear(names[i], std::move(layers[i]));
    return names;
}

}  // namespace aerogel
