// The passes of a rotation in plain loops: blocks that are shorter than a vector, and any block on any CPU.
// Included by sources built for one CPU level, so everything is local to the including file.
#pragma once

#include <cstdint>

#include "aerogel/rotation.h"

namespace aerogel {
namespace {

/// y[i], y[i + distance] become their sum and difference, in all pairs of a block.
inline void hadamard_loop(float* y, std::int64_t block, std::int64_t distance) {
    for (std::int64_t first = 0; first < block; first += 2 * distance) {
        for (std::int64_t i = first; i < first + distance; ++i) {
            const float a = y[i], b = y[i + distance];
            y[i] = a + b;
            y[i + distance] = a - b;
        }
    }
}

/// The same of four values with ConvRot's matrix, without its factor.
inline void convrot_loop(float* y, std::int64_t block, std::int64_t distance) {
    for (std::int64_t first = 0; first < block; first += 4 * distance) {
        for (std::int64_t i = first; i < first + distance; ++i) {
            const float a = y[i], b = y[i + distance], c = y[i + 2 * distance], d = y[i + 3 * distance];
            const float sum = a + b, difference = a - b, far_sum = c + d, far_difference = c - d;
            y[i] = sum + far_difference;
            y[i + distance] = sum - far_difference;
            y[i + 2 * distance] = difference + far_sum;
            y[i + 3 * distance] = far_sum - difference;
        }
    }
}

/// A whole block.
inline void transform_in_loops(float* y, RotationShape shape) {
    if (shape.kind == RotationKind::hadamard) {
        for (std::int64_t distance = 1; distance < shape.block; distance *= 2)
            hadamard_loop(y, shape.block, distance);
    } else {
        for (std::int64_t distance = 1; distance < shape.block; distance *= 4)
            convrot_loop(y, shape.block, distance);
    }
}

}  // namespace
}  // namespace aerogel
