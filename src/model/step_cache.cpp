// When blocks are left out, and what stands for them.
#include "model/step_cache.h"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "aerogel/error.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

constexpr std::array kKinds = {std::pair{StepCacheKind::none, std::string_view("none")},
                               std::pair{StepCacheKind::first_block, std::string_view("first-block")},
                               std::pair{StepCacheKind::taylor, std::string_view("taylor")}};

// y = x - less; y may be x.
void subtract(const Tensor& x, const Tensor& less, Tensor& y, const Context& context) {
    combine({{1.0, x}, {-1.0, less}}, y, false, context);
}

Tensor like(const Tensor& x) {
    return {DType::f32, x.shape(), x.device()};
}

}  // namespace

StepCacheKind step_cache_kind_from(std::string_view name) {
    for (const auto& [kind, word] : kKinds)
        if (word == name) return kind;
    throw InvalidArgument(
        fmt::format("[step_cache] kind must be none, first-block or taylor, got '{}'", name));
}

std::string_view to_string(StepCacheKind kind) {
    for (const auto& [row, word] : kKinds)
        if (row == kind) return word;
    return "";
}

StepCache::StepCache(const StepCacheConfig& config) : config_(config) {
    if (!(config.threshold >= 0.0))
        throw InvalidArgument(
            fmt::format("[step_cache] threshold must not be negative, got {}", config.threshold));
}

void StepCache::before_blocks(const Tensor& hidden, const Context& context) {
    ++pass_;
    skipped_ = false;
    change_.reset();
    if (others_.defined() && others_.shape() != hidden.shape()) first_ = others_ = slope_ = {};
    start_ = like(hidden);
    copy(hidden, start_, context);
}

bool StepCache::after_first_block(Tensor& hidden, const Rows& rows, const Context& context) {
    subtract(hidden, start_, start_, context);
    if (others_.defined()) {
        const RowRanges ranges = {rows.items, rows.each, rows.first, rows.count};
        const Difference found = difference(start_, first_, ranges, context);
        change_ = found.difference / found.size;
        skipped_ = *change_ <= config_.threshold;
    }
    if (skipped_) {
        const auto later = static_cast<double>(pass_ - full_pass_);
        if (slope_.defined())
            combine({{1.0, hidden}, {1.0, others_}, {later, slope_}}, hidden, false, context);
        else
            combine({{1.0, hidden}, {1.0, others_}}, hidden, false, context);
        start_ = {};
        return true;
    }
    first_ = std::move(start_);
    start_ = {};
    behind_ = like(hidden);
    copy(hidden, behind_, context);
    return false;
}

void StepCache::after_blocks(const Tensor& hidden, const Context& context) {
    subtract(hidden, behind_, behind_, context);
    if (config_.kind == StepCacheKind::taylor && others_.defined()) {
        const double passes = static_cast<double>(pass_ - full_pass_);
        if (!slope_.defined()) slope_ = like(hidden);
        combine({{1.0 / passes, behind_}, {-1.0 / passes, others_}}, slope_, false, context);
    }
    others_ = std::move(behind_);
    behind_ = {};
    full_pass_ = pass_;
}

void run_blocks(const BlockRun& run, const std::function<void(int)>& block) {
    StepCache* const cache = run.step.cache != nullptr && run.step.cache->config().active() && run.blocks > 1
                                 ? run.step.cache
                                 : nullptr;
    const Context& context = run.step.context.call;
    if (cache != nullptr) cache->before_blocks(run.hidden, context);
    for (int i = 0; i < run.blocks; ++i) {
        block(i);
        if (i == 0 && cache != nullptr && cache->after_first_block(run.hidden, run.rows, context)) return;
    }
    if (cache != nullptr) cache->after_blocks(run.hidden, context);
}

}  // namespace aerogel
