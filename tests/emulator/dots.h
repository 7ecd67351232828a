// The inner loops of products, compiled for more than one level of CPU.
#pragma once

#include <cstdint>

#include "emulator/products.h"

namespace aerogel::emulator {

/// Elements of k in 32 bytes.
constexpr int depth_of(Product product) {
    return product == Product::bf16 || product == Product::f16 ? 16 : 32;
}

/// The numbers of operands as they are in memory.
void widen(const unsigned char* from, std::int16_t* to, int count, bool is_signed);
void widen(Product product, const unsigned char* from, float* to, int count);

struct ProductSize {
    int m, n, k;
};

/// c[m,n] += a[m,k] b[n,k]^T; k a multiple of 16.
void add_products(const std::int16_t* a, const std::int16_t* b, std::int32_t* c, ProductSize size);

/// c[m,n] = a[m,k] b[k,n] in double: exact for products of numbers of 16 bits and less.
void multiply_exactly(const float* a, const float* b, double* c, ProductSize size);

}  // namespace aerogel::emulator
