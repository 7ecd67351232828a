// The emulated side of src/kernels/cuda/primitives/gpu.h, which documents these functions.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "emulator/copies.h"
#include "emulator/lane.h"
#include "emulator/lanes.h"
#include "emulator/language.h"
#include "emulator/numbers.h"
#include "emulator/products.h"

namespace aerogel::gpu {

using emulator::Where;

/// What these functions do with their own variables is no access of the kernel's.
#define AEROGEL_UNTOLD __attribute__((no_sanitize_thread))

inline unsigned char* shared() {
    return emulator::shared_memory();
}
inline std::uint32_t address(const void* p) {
    return static_cast<std::uint32_t>(static_cast<const unsigned char*>(p) - emulator::shared_memory()) +
           emulator::kSharedBase;
}

// --- memory ---
template <class T>
AEROGEL_UNTOLD T load(const void* p, Where where = Where::here()) {
    T v;
    emulator::load(&v, p, static_cast<int>(sizeof(T)), where);
    return v;
}
template <class T>
T load_global(const void* p, Where where = Where::here()) {
    return load<T>(p, where);
}
template <class T>
AEROGEL_UNTOLD void store(void* p, T v, Where where = Where::here()) {
    emulator::store(p, &v, static_cast<int>(sizeof(T)), where);
}

// --- asynchronous copies ---
inline void cp_async16(void* to, const void* from, bool keep = true, Where where = Where::here()) {
    emulator::copy_begin(to, from, 16, keep ? 16 : 0, where);
}
template <int kBytes>
void cp_async(void* to, const void* from, int kept = kBytes, Where where = Where::here()) {
    emulator::copy_begin(to, from, kBytes, kept, where);
}
inline void cp_async_commit() {
    emulator::copy_commit();
}
template <int kNewest>
void cp_async_wait(Where where = Where::here()) {
    emulator::copy_wait(kNewest, where);
}
inline void cp_async_wait_all(Where where = Where::here()) {
    emulator::copy_wait_all(where);
}

// --- barriers ---
inline void barrier_sync(int number, int threads, Where where = Where::here()) {
    emulator::synchronize(number, static_cast<unsigned>(threads), true, where);
}
inline void barrier_arrive(int number, int threads, Where where = Where::here()) {
    emulator::synchronize(number, static_cast<unsigned>(threads), false, where);
}

// --- the lanes of a warp ---
template <class T>
AEROGEL_UNTOLD T shfl(T v, int from, Where where = Where::here()) {
    static_assert(sizeof(T) <= 16);
    T out;
    emulator::shuffle(&v, sizeof(T), from, &out, where);
    return out;
}
inline int lane_id() {
    return static_cast<int>(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32;
}
template <class T>
T shfl_xor(T v, int mask, Where where = Where::here()) {
    return shfl(v, lane_id() ^ mask, where);
}
template <class T>
T shfl_down(T v, int by, Where where = Where::here()) {
    return shfl(v, lane_id() + by > 31 ? lane_id() : lane_id() + by, where);
}
template <class T>
T shfl_up(T v, int by, Where where = Where::here()) {
    return shfl(v, lane_id() - by < 0 ? lane_id() : lane_id() - by, where);
}
inline std::uint32_t ballot(bool b, Where where = Where::here()) {
    return emulator::vote(b, where);
}

// --- tensor cores ---
inline void ldmatrix_x4(std::uint32_t (&r)[4], const void* row, Where where = Where::here()) {
    emulator::load_matrices(r, row, 4, false, where);
}
inline void ldmatrix_x2(std::uint32_t (&r)[2], const void* row, Where where = Where::here()) {
    emulator::load_matrices(r, row, 2, false, where);
}
inline void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* row, Where where = Where::here()) {
    emulator::load_matrices(r, row, 4, true, where);
}
inline void ldmatrix_x2_trans(std::uint32_t (&r)[2], const void* row, Where where = Where::here()) {
    emulator::load_matrices(r, row, 2, true, where);
}
template <class T>
AEROGEL_UNTOLD void multiply(emulator::Product product, T (&c)[4], const std::uint32_t (&a)[4],
                             const std::uint32_t* b, Where where) {
    emulator::ProductIn in;
    for (int i = 0; i < 4; ++i) in.c[i] = std::bit_cast<std::uint32_t>(c[i]);
    for (int i = 0; i < 4; ++i) in.a[i] = a[i];
    in.b[0] = b[0];
    in.b[1] = b[1];
    std::uint32_t out[4];
    emulator::multiply(product, in, out, where);
    for (int i = 0; i < 4; ++i) c[i] = std::bit_cast<T>(out[i]);
}
inline void mma_s8(std::int32_t (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t* b,
                   Where where = Where::here()) {
    multiply(emulator::Product::s8, c, a, b, where);
}
inline void mma_u8s8(std::int32_t (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t* b,
                     Where where = Where::here()) {
    multiply(emulator::Product::u8s8, c, a, b, where);
}
inline void mma_bf16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t* b,
                     Where where = Where::here()) {
    multiply(emulator::Product::bf16, c, a, b, where);
}
inline void mma_f16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t* b,
                    Where where = Where::here()) {
    multiply(emulator::Product::f16, c, a, b, where);
}
inline void mma_e4m3(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t* b,
                     Where where = Where::here()) {
    multiply(emulator::Product::e4m3, c, a, b, where);
}

// --- numbers ---
inline float fmax_nan(float a, float b) {
    return a > b || a != a ? a : b;
}
inline float exp2_fast(float x) {
    const float y = std::exp2(x);
    return std::fabs(y) < 0x1p-126F ? 0.0F : y;  // .ftz
}
inline std::uint32_t pack_bf16(float low, float high) {
    return emulator::bf16_of_float(low) | emulator::bf16_of_float(high) << 16;
}
inline std::uint32_t pack_f16(float low, float high) {
    return emulator::encode(emulator::kF16, low) | emulator::encode(emulator::kF16, high) << 16;
}
inline float float_of_bf16(std::uint32_t bits) {
    return emulator::float_of_bf16(bits & 0xFFFF);
}
inline float float_of_f16(std::uint32_t bits) {
    return emulator::decode(emulator::kF16, bits & 0xFFFF);
}
inline std::uint32_t pack_e4m3(float low, float high) {
    return emulator::encode(emulator::kE4M3, low) | emulator::encode(emulator::kE4M3, high) << 8;
}

#undef AEROGEL_UNTOLD

}  // namespace aerogel::gpu
