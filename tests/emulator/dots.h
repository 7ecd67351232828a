// The inner loops of products, compiled for more than one level of CPU.
#pragma once

#include <cstdint>

namespace aerogel::emulator {

struct ProductSize {
    int m, n, k;
};

/// c[m,n] += a[m,k] b[n,k]^T; k a multiple of 16.
void add_products(const std::int16_t* a, const std::int16_t* b, std::int32_t* c, ProductSize size);

/// c[m,n] = a[m,k] b[k,n] in double: exact for products of numbers of 16 bits and less.
void multiply_exactly(const float* a, const float* b, double* c, ProductSize size);

}  // namespace aerogel::emulator
