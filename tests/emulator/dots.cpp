// Plain loops that the compiler turns into vector instructions.
#include "emulator/dots.h"

#include <cstring>

#include "emulator/numbers.h"

namespace aerogel::emulator {

#define AEROGEL_CLONES __attribute__((target_clones("avx2", "default")))

AEROGEL_CLONES void widen(const unsigned char* from, std::int16_t* to, int count, bool is_signed) {
    const int flip = is_signed ? 128 : 0;
    for (int i = 0; i < count; ++i) to[i] = static_cast<std::int16_t>((from[i] ^ flip) - flip);
}

AEROGEL_CLONES void widen(Product product, const unsigned char* from, float* to, int count) {
    const auto half = [&](int i) {
        std::uint16_t bits;
        std::memcpy(&bits, from + 2 * i, 2);
        return std::uint32_t{bits};
    };
    switch (product) {
        case Product::bf16:
            for (int i = 0; i < count; ++i) to[i] = float_of_bf16(half(i));
            return;
        case Product::f16:
            for (int i = 0; i < count; ++i) to[i] = decode(kF16, half(i));
            return;
        case Product::e4m3:
            for (int i = 0; i < count; ++i) to[i] = decode(kE4M3, from[i]);
            return;
        case Product::e5m2:
            for (int i = 0; i < count; ++i) to[i] = decode(kE5M2, from[i]);
            return;
        case Product::s8:
        case Product::u8s8:
            return;
    }
}

AEROGEL_CLONES void add_products(const std::int16_t* a, const std::int16_t* b, std::int32_t* c,
                                 ProductSize size) {
    for (int m = 0; m < size.m; ++m) {
        for (int n = 0; n < size.n; ++n) {
            const std::int16_t *x = a + m * size.k, *y = b + n * size.k;
            std::uint32_t sum = 0;
            for (int k = 0; k < size.k; k += 16) {
                std::int32_t part = 0;
                for (int i = 0; i < 16; ++i) part += x[k + i] * y[k + i];
                sum += static_cast<std::uint32_t>(part);
            }
            c[m * size.n + n] =
                static_cast<std::int32_t>(static_cast<std::uint32_t>(c[m * size.n + n]) + sum);
        }
    }
}

AEROGEL_CLONES void multiply_exactly(const float* a, const float* b, double* c, ProductSize size) {
    for (int m = 0; m < size.m; ++m) {
        for (int first = 0; first < size.n; first += 8) {
            double sum[8] = {};
            for (int k = 0; k < size.k; ++k) {
                const auto x = static_cast<double>(a[m * size.k + k]);
                const float* y = b + k * size.n + first;
                for (int n = 0; n < 8; ++n) sum[n] += x * static_cast<double>(y[n]);
            }
            for (int n = 0; n < 8; ++n) c[m * size.n + first + n] = sum[n];
        }
    }
}

}  // namespace aerogel::emulator
