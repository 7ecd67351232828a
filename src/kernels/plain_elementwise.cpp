// Chunks of elements, or of rows of the last axis, are tasks.
#include "kernels/plain_elementwise.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>

#include "aerogel/number_types.h"
#include "base/thread_pool.h"

namespace aerogel::plain {
namespace {

constexpr std::int64_t kTaskElements = 16384;

/// Calls chunk(first, last) for `count` elements.
template <typename Chunk>
void for_chunks(std::int64_t count, const Chunk& chunk) {
    parallel_for((count + kTaskElements - 1) / kTaskElements, [&](std::int64_t task, int) {
        chunk(task * kTaskElements, std::min(count, (task + 1) * kTaskElements));
    });
}

template <typename Wide>
void combine_chunk(const CombineArgs& args, std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
        auto sum = static_cast<Wide>(args.factor[0]) * static_cast<Wide>(args.x[0][i]);
        for (std::size_t term = 1; term < args.terms; ++term)
            sum += static_cast<Wide>(args.factor[term]) * static_cast<Wide>(args.x[term][i]);
        args.y[i] = static_cast<float>(sum);
    }
}

float widened(float x) {
    return x;
}
float widened(BFloat16 x) {
    return to_float(x);
}
float widened(Float16 x) {
    return to_float(x);
}

template <typename To>
To narrowed(float x) {
    if constexpr (std::is_same_v<To, BFloat16>) {
        return to_bfloat16(x);
    } else if constexpr (std::is_same_v<To, Float16>) {
        return to_float16(x);
    } else {
        return x;
    }
}

/// The last axis: n elements.
struct Line {
    std::int64_t n, x_stride, y_stride;
};

template <typename From, typename To>
void copy_line(const From* x, To* y, const Line& line) {
    if constexpr (std::is_same_v<From, To>) {
        if (line.x_stride == 1 && line.y_stride == 1) {
            std::memcpy(y, x, static_cast<std::size_t>(line.n) * sizeof(To));
            return;
        }
        for (std::int64_t i = 0; i < line.n; ++i) y[i * line.y_stride] = x[i * line.x_stride];
    } else {
        for (std::int64_t i = 0; i < line.n; ++i)
            y[i * line.y_stride] = narrowed<To>(widened(x[i * line.x_stride]));
    }
}

/// The axes but the last: where line number `at` begins, and on to the next.
class Lines {
  public:
    Lines(const CopyArgs& args, std::int64_t at) : args_(args) {
        for (std::size_t axis = args.axes - 1; axis-- > 0;) {
            index_[axis] = at % args.shape[axis];
            at /= args.shape[axis];
            x_ += index_[axis] * args.x_strides[axis];
            y_ += index_[axis] * args.y_strides[axis];
        }
    }

    std::int64_t x() const { return x_; }
    std::int64_t y() const { return y_; }
    void advance() {
        for (std::size_t axis = args_.axes - 1; axis-- > 0;) {
            x_ += args_.x_strides[axis];
            y_ += args_.y_strides[axis];
            if (++index_[axis] < args_.shape[axis]) return;
            x_ -= args_.shape[axis] * args_.x_strides[axis];
            y_ -= args_.shape[axis] * args_.y_strides[axis];
            index_[axis] = 0;
        }
    }

  private:
    const CopyArgs& args_;
    std::array<std::int64_t, CopyArgs::kMostAxes> index_ = {};
    std::int64_t x_ = 0, y_ = 0;
};

template <typename From, typename To>
void copy_elements(const CopyArgs& args) {
    const std::size_t last = args.axes - 1;
    const Line line = {args.shape[last], args.x_strides[last], args.y_strides[last]};
    std::int64_t lines = 1;
    for (std::size_t axis = 0; axis < last; ++axis) lines *= args.shape[axis];
    if (line.n == 0) return;
    const std::int64_t per_task = std::max<std::int64_t>(1, kTaskElements / line.n);
    parallel_for((lines + per_task - 1) / per_task, [&](std::int64_t task, int) {
        const std::int64_t end = std::min(lines, (task + 1) * per_task);
        Lines at(args, task * per_task);
        for (std::int64_t i = task * per_task; i < end; ++i, at.advance())
            copy_line(static_cast<const From*>(args.x) + at.x(), static_cast<To*>(args.y) + at.y(), line);
    });
}

template <typename From>
void copy_from(const CopyArgs& args) {
    switch (args.y_type) {
        case DType::bf16:
            return copy_elements<From, BFloat16>(args);
        case DType::f16:
            return copy_elements<From, Float16>(args);
        default:
            return copy_elements<From, float>(args);
    }
}

}  // namespace

void combine(const CombineArgs& args) noexcept {
    for_chunks(args.count, [&](std::int64_t first, std::int64_t last) {
        args.wide ? combine_chunk<double>(args, first, last) : combine_chunk<float>(args, first, last);
    });
}

void copy(const CopyArgs& args) noexcept {
    switch (args.x_type) {
        case DType::bf16:
            return copy_from<BFloat16>(args);
        case DType::f16:
            return copy_from<Float16>(args);
        default:
            return copy_from<float>(args);
    }
}

void match_norms(const MatchNormsArgs& args) noexcept {
    const auto norm = [&](const float* row) {
        double sum = 0.0;
        for (std::int64_t i = 0; i < args.columns; ++i) sum += double{row[i]} * double{row[i]};
        return std::sqrt(sum);
    };
    const std::int64_t per_task =
        std::max<std::int64_t>(1, kTaskElements / std::max<std::int64_t>(1, args.columns));
    parallel_for((args.rows + per_task - 1) / per_task, [&](std::int64_t task, int) {
        const std::int64_t end = std::min(args.rows, (task + 1) * per_task);
        for (std::int64_t row = task * per_task; row < end; ++row) {
            float* x = args.x + row * args.columns;
            const double own = norm(x);
            if (own == 0.0) continue;
            const double factor = norm(args.like + row * args.columns) / own;
            for (std::int64_t i = 0; i < args.columns; ++i) x[i] = static_cast<float>(double{x[i]} * factor);
        }
    });
}

bool all_finite(const FiniteArgs& args) noexcept {
    std::atomic<bool> finite = true;
    for_chunks(args.count, [&](std::int64_t first, std::int64_t last) {
        // A number is finite unless all bits of its exponent are set.
        constexpr std::uint32_t kExponent = 0x7F80'0000U;
        std::uint32_t bad = 0;
        for (std::int64_t i = first; i < last; ++i)
            bad |= static_cast<std::uint32_t>((std::bit_cast<std::uint32_t>(args.x[i]) & kExponent) ==
                                              kExponent);
        if (bad != 0) finite = false;
    });
    return finite;
}

void clamp(const ClampArgs& args) noexcept {
    constexpr std::int64_t kChunk = 16384;
    parallel_for((args.count + kChunk - 1) / kChunk, [&](std::int64_t chunk, int) {
        const std::int64_t end = std::min(args.count, (chunk + 1) * kChunk);
        for (std::int64_t i = chunk * kChunk; i < end; ++i) {
            const bool below = args.clears_nan ? !(args.x[i] >= args.low) : args.x[i] < args.low;
            const float above = below ? args.low : args.x[i];
            args.x[i] = above > args.high ? args.high : above;
        }
    });
}

}  // namespace aerogel::plain
