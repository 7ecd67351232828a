// Group normalisation and softmax over whatever vectors `Isa` offers (kernels/cpu/*/vector.h).
// Included by sources built for one CPU level; everything is local to the including file.
#pragma once

#include "kernels/cpu/elementwise_loops.h"

namespace aerogel {
namespace {

/// Sums of (x - center) and of its square over these rows, for every channel; center is the first row of x.
/// Subtracting it keeps digits where the mean is far from 0.
template <typename Isa>
void sum_channels(const GroupNormArgs& args, std::int64_t first, std::int64_t rows, float* sums,
                  float* squares) {
    using V = typename Isa::V;
    constexpr std::int64_t kVectors = 4;
    const float* start = args.x + first * args.channels;
    for (std::int64_t c = 0; c < args.channels; c += kVectors * Isa::kLanes) {
        V center[kVectors], sum[kVectors], square[kVectors];
        std::int64_t lanes[kVectors];
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) {
            const std::int64_t left = args.channels - c - j * Isa::kLanes;
            lanes[j] = left < 0 ? 0 : left < Isa::kLanes ? left : Isa::kLanes;
            center[j] = lanes[j] == 0 ? Isa::zero() : Isa::load_part(args.x + c + j * Isa::kLanes, lanes[j]);
            sum[j] = square[j] = Isa::zero();
        }
        for (std::int64_t r = 0; r < rows; ++r) {
            const float* x = start + r * args.channels + c;
#pragma GCC unroll 4
            for (int j = 0; j < kVectors; ++j) {
                if (lanes[j] == 0) continue;
                const V d = Isa::sub(Isa::load_part(x + j * Isa::kLanes, lanes[j]), center[j]);
                sum[j] = Isa::add(sum[j], d);
                square[j] = Isa::fma(d, d, square[j]);
            }
        }
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) {
            if (lanes[j] == 0) continue;
            Isa::store_part(sums + c + j * Isa::kLanes, lanes[j], sum[j]);
            Isa::store_part(squares + c + j * Isa::kLanes, lanes[j], square[j]);
        }
    }
}

struct GroupMoments {
    double mean = 0.0, variance = 0.0;
};

/// Of one group, from the sums of all chunks, in double.
inline GroupMoments find_moments(const GroupNormArgs& args, std::int64_t group, const float* sums) {
    const std::int64_t size = args.channels / args.groups, first = group * size;
    const std::int64_t chunks = group_norm_chunks(args.rows);
    const auto rows = static_cast<double>(args.rows), count = rows * static_cast<double>(size);
    double mean = 0.0, squares = 0.0;
    for (int pass = 0; pass < 2; ++pass) {  // the second one knows the mean
        double total = 0.0;
        for (std::int64_t c = first; c < first + size; ++c) {
            double sum = 0.0, square = 0.0;
            for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
                sum += static_cast<double>(sums[2 * chunk * args.channels + c]);
                if (pass == 1) square += static_cast<double>(sums[(2 * chunk + 1) * args.channels + c]);
            }
            const double off = static_cast<double>(args.x[c]) - mean;
            total += sum + rows * off;
            if (pass == 1) squares += square + 2.0 * off * sum + rows * off * off;
        }
        if (pass == 0) mean = total / count;
    }
    return {mean, squares < 0.0 ? 0.0 : squares / count};
}

/// y = x * factor + shift, of the channels of one group.
inline void find_group(const GroupNormArgs& args, std::int64_t group, const GroupMoments& moments,
                       float* factor, float* shift) {
    const std::int64_t size = args.channels / args.groups, first = group * size;
    const double width = 1.0 / __builtin_sqrt(moments.variance + static_cast<double>(args.epsilon));
    for (std::int64_t c = first; c < first + size; ++c) {
        const double weight = args.weight == nullptr ? width : width * static_cast<double>(args.weight[c]);
        const double bias = args.bias == nullptr ? 0.0 : static_cast<double>(args.bias[c]);
        factor[c] = static_cast<float>(weight);
        shift[c] = static_cast<float>(bias - moments.mean * weight);
    }
}

template <typename Isa>
void run_group_norm(const GroupNormArgs& args) {
    const std::int64_t chunks = group_norm_chunks(args.rows), channels = args.channels;
    float* sums = args.workspace;
    float* factor = sums + 2 * chunks * channels;
    float* shift = factor + channels;
    parallel_for(args.moments != nullptr ? 0 : chunks, [&](std::int64_t chunk, int) {
        const std::int64_t first = chunk * kGroupNormRows, left = args.rows - first;
        float* own = sums + 2 * chunk * channels;
        sum_channels<Isa>(args, first, left < kGroupNormRows ? left : kGroupNormRows, own, own + channels);
    });
    parallel_for(args.groups, [&](std::int64_t group, int) {
        const GroupMoments moments = args.moments != nullptr
                                         ? GroupMoments{args.moments[2 * group], args.moments[2 * group + 1]}
                                         : find_moments(args, group, sums);
        if (args.found == nullptr) return find_group(args, group, moments, factor, shift);
        args.found[2 * group] = static_cast<float>(moments.mean);
        args.found[2 * group + 1] = static_cast<float>(moments.variance);
    });
    if (args.found != nullptr) return;
    for_rows(args.rows, channels, [&](std::int64_t row) {
        const float* x = args.x + row * channels;
        float* y = args.y + row * channels;
        for_vectors<Isa>(channels, [&](std::int64_t i, std::int64_t lanes) {
            auto value = Isa::fma(Isa::load_part(x + i, lanes), Isa::load_part(factor + i, lanes),
                                  Isa::load_part(shift + i, lanes));
            if (args.silu) value = silu<Isa>(value);
            Isa::store_part(y + i, lanes, value);
        });
    });
}

template <typename Isa>
void softmax_row(float* x, std::int64_t columns, float scale) {
    using V = typename Isa::V;
    float largest = x[0];
    V best = Isa::set1(largest);
    for (std::int64_t i = 0; i < columns; i += Isa::kLanes)
        if (columns - i >= Isa::kLanes) best = Isa::larger(best, Isa::load(x + i));
    largest = Isa::reduce_larger(best);
    for (std::int64_t i = columns / Isa::kLanes * Isa::kLanes; i < columns; ++i)
        largest = x[i] > largest ? x[i] : largest;
    const V center = Isa::set1(largest), factor = Isa::set1(scale);
    V sums = Isa::zero();
    float sum = 0.0F;
    for_vectors<Isa>(columns, [&](std::int64_t i, std::int64_t lanes) {
        const V value = exponential<Isa>(Isa::mul(Isa::sub(Isa::load_part(x + i, lanes), center), factor));
        Isa::store_part(x + i, lanes, value);
        if (lanes == Isa::kLanes) {
            sums = Isa::add(sums, value);
        } else {
            for (std::int64_t j = i; j < i + lanes; ++j) sum += x[j];
        }
    });
    const V total = Isa::set1(1.0F / (sum + Isa::reduce_add(sums)));
    for_vectors<Isa>(columns, [&](std::int64_t i, std::int64_t lanes) {
        Isa::store_part(x + i, lanes, Isa::mul(Isa::load_part(x + i, lanes), total));
    });
}

template <typename Isa>
void run_softmax(const SoftmaxArgs& args) {
    for_rows(args.rows, args.columns, [&](std::int64_t row) {
        softmax_row<Isa>(args.x + row * args.x_stride, args.columns, args.scale);
    });
}

}  // namespace
}  // namespace aerogel
