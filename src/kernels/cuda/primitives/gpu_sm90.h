// What kernels may ask of Hopper (sm_90a) beyond gpu.h: mbarriers, tiles copied by TMA, products of a warp
// group (wgmma). Four warps, the first a multiple of four, are a warp group. Under nvcc PTX, else the
// emulator's (tests/emulator).
#pragma once

#include "kernels/cuda/primitives/gpu.h"
#include "kernels/cuda/primitives/tile_descriptor.h"

#ifndef __CUDACC__
#include "emulator/primitives_sm90.h"
#else

namespace aerogel::gpu {

// --- mbarriers: 8 bytes of shared memory, aligned to 8 ---
/// One thread; then mbarrier_fence_init() and a barrier before anyone uses it. A phase ends after that many
/// arrivals.
AEROGEL_DEVICE void mbarrier_init(std::uint64_t* barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address(barrier)), "r"(arrivals) : "memory");
}
AEROGEL_DEVICE void mbarrier_fence_init() {
    asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
}
AEROGEL_DEVICE void mbarrier_arrive(std::uint64_t* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address(barrier)) : "memory");
}
/// Arrives; the phase also ends only when that many bytes have landed by tma_load.
AEROGEL_DEVICE void mbarrier_expect(std::uint64_t* barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address(barrier)), "r"(bytes)
                 : "memory");
}
/// Waits until the phase of that parity has ended: 0 for the first, third ...; 1 is over before anything
/// happened.
AEROGEL_DEVICE void mbarrier_wait(std::uint64_t* barrier, std::uint32_t parity) {
    asm volatile(
        "{\n.reg .pred p;\nAGAIN: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra DONE;\nbra "
        "AGAIN;\n"
        "DONE:\n}" ::"r"(address(barrier)),
        "r"(parity)
        : "memory");
}

// --- tiles by TMA ---
/// Shared memory that threads wrote becomes visible to tensor cores and TMA; before a barrier.
AEROGEL_DEVICE void fence_async() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
/// One thread copies a run of bytes to shared memory, multiples of 16 at multiples of 16, and no map is
/// needed. They land on the barrier.
AEROGEL_DEVICE void bulk_load(void* to, const void* from, int bytes, std::uint64_t* barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
            address(to)),
        "l"(from), "r"(bytes), "r"(address(barrier))
        : "memory");
}
/// One thread fetches the map early.
AEROGEL_DEVICE void tma_prefetch(const void* map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
/// One thread copies the map's box at x (elements), y, ... to shared memory; what lies outside of the array
/// becomes zero. The bytes of the whole box land on the barrier. to: a multiple of 128 bytes, of 1024 with
/// the 128-byte swizzle. map: part of the kernel's __grid_constant__ argument (core/cuda_driver.h:
/// TensorMap).
AEROGEL_DEVICE void tma_load_2d(void* to, const void* map, std::uint64_t* barrier, int x, int y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
        "%4}], [%2];" ::"r"(address(to)),
        "l"(map), "r"(address(barrier)), "r"(x), "r"(y)
        : "memory");
}
AEROGEL_DEVICE void tma_load_3d(void* to, const void* map, std::uint64_t* barrier, int x, int y, int z) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
        "%4, %5}], "
        "[%2];" ::"r"(address(to)),
        "l"(map), "r"(address(barrier)), "r"(x), "r"(y), "r"(z)
        : "memory");
}
AEROGEL_DEVICE void tma_load_4d(void* to, const void* map, std::uint64_t* barrier, int x, int y, int z,
                                int w) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
        "%4, %5, %6}], "
        "[%2];" ::"r"(address(to)),
        "l"(map), "r"(address(barrier)), "r"(x), "r"(y), "r"(z), "r"(w)
        : "memory");
}

// --- products of a warp group ---
/// Before the first product, and before one that uses registers that were touched since the last.
AEROGEL_DEVICE void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
/// The products since the last call are a group.
AEROGEL_DEVICE void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// The compiler must not move what it does with the sums across this.
template <int kCount>
AEROGEL_DEVICE void wgmma_hold(std::int32_t (&sums)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(sums[i])::"memory");
}
template <int kCount>
AEROGEL_DEVICE void wgmma_hold(float (&sums)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}
/// Waits until at most kNewest groups are under way: their sums may not be touched, those of the others are
/// ready.
template <int kNewest, class T, int kCount>
AEROGEL_DEVICE void wgmma_wait(T (&sums)[kCount]) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kNewest) : "memory");
    wgmma_hold(sums);
}

// d[64,N] = A[64,k] B[N,k]^T, plus d if it accumulates. k is 32 bytes. Thread t of the group has d[v] at row
// t / 32 * 16 + t % 32 / 4 + v / 2 % 2 * 8, column v / 4 * 8 + t % 4 * 2 + v % 2. A is a descriptor, or
// registers: those of mma_s8 and mma_bf16 for rows t / 32 * 16 and following.

#define AEROGEL_SUMS_32                                                                                      \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27," \
    "%28,%29,%30,%31"
#define AEROGEL_SUMS_64                                                                                  \
    AEROGEL_SUMS_32                                                                                      \
    ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%" \
    "56,%57,%58,%59,%60,%61,%62,%63"
#define AEROGEL_SUMS_128                                                                                 \
    AEROGEL_SUMS_64                                                                                      \
    ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%" \
    "88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%" \
    "110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define AEROGEL_OUT_8(c, o) \
    c(d[o]), c(d[o + 1]), c(d[o + 2]), c(d[o + 3]), c(d[o + 4]), c(d[o + 5]), c(d[o + 6]), c(d[o + 7])
#define AEROGEL_OUT_32(c, o) \
    AEROGEL_OUT_8(c, o), AEROGEL_OUT_8(c, o + 8), AEROGEL_OUT_8(c, o + 16), AEROGEL_OUT_8(c, o + 24)
#define AEROGEL_OUT_64(c, o) AEROGEL_OUT_32(c, o), AEROGEL_OUT_32(c, o + 32)
#define AEROGEL_OUT_128(c, o) AEROGEL_OUT_64(c, o), AEROGEL_OUT_64(c, o + 64)

// Operand numbers after the sums, and the instruction. tail: what the type takes after the predicate.
#define AEROGEL_WGMMA_BEGIN(p) "{\n.reg .pred p;\nsetp.ne.b32 p, " p ", 0;\nwgmma.mma_async.sync.aligned."
#define AEROGEL_WGMMA_SS(name, T, c, count, type, a_, b_, p_, tail)                                     \
    AEROGEL_DEVICE void name(T(&d)[count], std::uint64_t a, std::uint64_t b, bool accumulate = true) {  \
        asm volatile(AEROGEL_WGMMA_BEGIN(p_) type " {" AEROGEL_SUMS_##count "}, " a_ ", " b_ ", p" tail \
                                                                            ";\n}"                      \
                     : AEROGEL_OUT_##count(c, 0)                                                        \
                     : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));                              \
    }
#define AEROGEL_WGMMA_RS(name, T, c, count, type, a_, b_, p_, tail)                                   \
    AEROGEL_DEVICE void name(T(&d)[count], const std::uint32_t(&a)[4], std::uint64_t b,               \
                             bool accumulate = true) {                                                \
        asm volatile(                                                                                 \
            AEROGEL_WGMMA_BEGIN(p_) type " {" AEROGEL_SUMS_##count "}, " a_ ", " b_ ", p" tail ";\n}" \
            : AEROGEL_OUT_##count(c, 0)                                                               \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate))); \
    }
#define AEROGEL_WGMMA(n, count, a_, b_, p_, ra_, rb_, rp_)                                                   \
    AEROGEL_WGMMA_SS(wgmma_s8, std::int32_t, "+r", count, "m64n" n "k32.s32.s8.s8", a_, b_, p_, "")          \
    AEROGEL_WGMMA_RS(wgmma_s8, std::int32_t, "+r", count, "m64n" n "k32.s32.s8.s8", ra_, rb_, rp_, "")       \
    AEROGEL_WGMMA_SS(wgmma_e4m3, float, "+f", count, "m64n" n "k32.f32.e4m3.e4m3", a_, b_, p_, ", 1, 1")     \
    AEROGEL_WGMMA_RS(wgmma_e4m3, float, "+f", count, "m64n" n "k32.f32.e4m3.e4m3", ra_, rb_, rp_, ", 1, 1")  \
    AEROGEL_WGMMA_SS(wgmma_bf16, float, "+f", count, "m64n" n "k16.f32.bf16.bf16", a_, b_, p_,               \
                     ", 1, 1, 0, 0")                                                                         \
    AEROGEL_WGMMA_RS(wgmma_bf16, float, "+f", count, "m64n" n "k16.f32.bf16.bf16", ra_, rb_, rp_,            \
                     ", 1, 1, 0")                                                                            \
    AEROGEL_WGMMA_SS(wgmma_f16, float, "+f", count, "m64n" n "k16.f32.f16.f16", a_, b_, p_, ", 1, 1, 0, 0")  \
    AEROGEL_WGMMA_RS(wgmma_f16, float, "+f", count, "m64n" n "k16.f32.f16.f16", ra_, rb_, rp_, ", 1, 1, 0")  \
    /* B by descriptor_transposed */                                                                         \
    AEROGEL_WGMMA_RS(wgmma_bf16_transposed, float, "+f", count, "m64n" n "k16.f32.bf16.bf16", ra_, rb_, rp_, \
                     ", 1, 1, 1")                                                                            \
    AEROGEL_WGMMA_RS(wgmma_f16_transposed, float, "+f", count, "m64n" n "k16.f32.f16.f16", ra_, rb_, rp_,    \
                     ", 1, 1, 1")

AEROGEL_WGMMA("64", 32, "%32", "%33", "%34", "{%32,%33,%34,%35}", "%36", "%37")
AEROGEL_WGMMA("128", 64, "%64", "%65", "%66", "{%64,%65,%66,%67}", "%68", "%69")
AEROGEL_WGMMA("256", 128, "%128", "%129", "%130", "{%128,%129,%130,%131}", "%132", "%133")

#undef AEROGEL_WGMMA
#undef AEROGEL_WGMMA_SS
#undef AEROGEL_WGMMA_RS
#undef AEROGEL_WGMMA_BEGIN
#undef AEROGEL_OUT_8
#undef AEROGEL_OUT_32
#undef AEROGEL_OUT_64
#undef AEROGEL_OUT_128
#undef AEROGEL_SUMS_32
#undef AEROGEL_SUMS_64
#undef AEROGEL_SUMS_128

/// Registers of each thread of the warp group: a multiple of 8, 24 to 256.
template <int kRegisters>
AEROGEL_DEVICE void set_registers_up() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
AEROGEL_DEVICE void set_registers_down() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace aerogel::gpu
#endif

// --- where a tile of wgmma lies, for either compiler ---
namespace aerogel::gpu {

/// k along the rows. The tile of the next 32 bytes of k begins 32 bytes later.
__device__ __forceinline__ std::uint64_t descriptor(const void* tile) {
    return tile_descriptor(address(tile), 16);  // the leading offset is not used
}
/// B of 16-bit numbers with n along the rows of 128 bytes (64 numbers): a row is one k. The next 64 n begin
/// columns_apart bytes later. The tile of the next 16 k begins 2048 bytes later.
__device__ __forceinline__ std::uint64_t descriptor_transposed(const void* tile, int columns_apart) {
    return tile_descriptor(address(tile), static_cast<std::uint32_t>(columns_apart));
}

}  // namespace aerogel::gpu
