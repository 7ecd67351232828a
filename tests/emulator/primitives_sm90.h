// The emulated side of src/kernels/cuda/primitives/gpu_sm90.h, which documents these functions.
#pragma once

#include <cstdint>

#include "emulator/mbarriers.h"
#include "emulator/primitives.h"
#include "emulator/tiles.h"
#include "emulator/warp_groups.h"

namespace aerogel::gpu {

inline void mbarrier_init(std::uint64_t* barrier, int arrivals, Where where = Where::here()) {
    emulator::mbarrier_init(barrier, arrivals, where);
}
inline void mbarrier_fence_init() {
    emulator::fence_async();
}
inline void mbarrier_arrive(std::uint64_t* barrier, Where where = Where::here()) {
    emulator::mbarrier_arrive(barrier, 0, where);
}
inline void mbarrier_expect(std::uint64_t* barrier, int bytes, Where where = Where::here()) {
    emulator::mbarrier_arrive(barrier, bytes, where);
}
inline void mbarrier_wait(std::uint64_t* barrier, std::uint32_t parity, Where where = Where::here()) {
    emulator::mbarrier_wait(barrier, parity, where);
}
inline void fence_async() {
    emulator::fence_async();
}
inline void tma_prefetch(const void*) {}

#define AEROGEL_UNTOLD __attribute__((no_sanitize_thread))

AEROGEL_UNTOLD inline void bulk_load(void* to, const void* from, int bytes, std::uint64_t* barrier,
                                     Where where = Where::here()) {
    emulator::load_run(to, from, bytes, barrier, where);
}
AEROGEL_UNTOLD inline void tma_load_2d(void* to, const void* map, std::uint64_t* barrier, int x, int y,
                                       Where where = Where::here()) {
    emulator::load_tile(to, map, barrier, {2, {x, y}}, where);
}
AEROGEL_UNTOLD inline void tma_load_3d(void* to, const void* map, std::uint64_t* barrier, int x, int y, int z,
                                       Where where = Where::here()) {
    emulator::load_tile(to, map, barrier, {3, {x, y, z}}, where);
}
AEROGEL_UNTOLD inline void tma_load_4d(void* to, const void* map, std::uint64_t* barrier, int x, int y, int z,
                                       int w, Where where = Where::here()) {
    emulator::load_tile(to, map, barrier, {4, {x, y, z, w}}, where);
}

inline void wgmma_fence(Where where = Where::here()) {
    emulator::group_fence(where);
}
inline void wgmma_commit(Where where = Where::here()) {
    emulator::group_commit(where);
}
template <class T, int kCount>
void wgmma_hold(T (&)[kCount]) {}
template <int kNewest, class T, int kCount>
void wgmma_wait(T (&)[kCount], Where where = Where::here()) {
    emulator::group_wait(kNewest, where);
}

/// Where a product's A comes from: a descriptor, or four registers.
struct OperandA {
    bool in_registers;
    std::uint64_t tile;
    const std::uint32_t* registers;
};
template <class T, int kCount>
AEROGEL_UNTOLD void group_product(emulator::Product product, T (&d)[kCount], OperandA a,
                                  emulator::GroupProduct rest, Where where) {
    static_assert(kCount == 32 || kCount == 64 || kCount == 128);
    rest.product = product;
    rest.n = 2 * kCount;
    rest.a_in_registers = a.in_registers;
    rest.a_tile = a.tile;
    for (int i = 0; i < 4 && a.in_registers; ++i) rest.a[i] = a.registers[i];
    rest.sums = d;
    emulator::group_multiply(rest, where);
}

#define AEROGEL_WGMMA_RS(name, T, product, transposed)                                   \
    template <int kCount>                                                                \
    AEROGEL_UNTOLD void name(T(&d)[kCount], const std::uint32_t(&a)[4], std::uint64_t b, \
                             bool accumulate = true, Where where = Where::here()) {      \
        emulator::GroupProduct rest{};                                                   \
        rest.b_tile = b;                                                                 \
        rest.b_transposed = transposed;                                                  \
        rest.accumulate = accumulate;                                                    \
        group_product(emulator::Product::product, d, {true, 0, a}, rest, where);         \
    }
#define AEROGEL_WGMMA(name, T, product)                                                               \
    AEROGEL_WGMMA_RS(name, T, product, false)                                                         \
    template <int kCount>                                                                             \
    AEROGEL_UNTOLD void name(T(&d)[kCount], std::uint64_t a, std::uint64_t b, bool accumulate = true, \
                             Where where = Where::here()) {                                           \
        emulator::GroupProduct rest{};                                                                \
        rest.b_tile = b;                                                                              \
        rest.accumulate = accumulate;                                                                 \
        group_product(emulator::Product::product, d, {false, a, nullptr}, rest, where);               \
    }

AEROGEL_WGMMA(wgmma_s8, std::int32_t, s8)
AEROGEL_WGMMA(wgmma_e4m3, float, e4m3)
AEROGEL_WGMMA(wgmma_bf16, float, bf16)
AEROGEL_WGMMA(wgmma_f16, float, f16)
AEROGEL_WGMMA_RS(wgmma_bf16_transposed, float, bf16, true)
AEROGEL_WGMMA_RS(wgmma_f16_transposed, float, f16, true)

#undef AEROGEL_WGMMA
#undef AEROGEL_WGMMA_RS
#undef AEROGEL_UNTOLD

template <int kRegisters>
void set_registers_up() {
    static_assert(kRegisters >= 24 && kRegisters <= 256 && kRegisters % 8 == 0);
}
template <int kRegisters>
void set_registers_down() {
    static_assert(kRegisters >= 24 && kRegisters <= 256 && kRegisters % 8 == 0);
}

}  // namespace aerogel::gpu
