// Do the emulator and the primitives agree with CuTe, NVIDIA's own description of its tensor cores? Compiled
// for the host by tests/emulator/test_cute.py; prints a line for every disagreement and the number of
// comparisons.
#include <cstdio>
#include <cute/atom/copy_traits_sm75.hpp>
#include <cute/atom/mma_traits_sm120.hpp>
#include <cute/atom/mma_traits_sm80.hpp>
#include <cute/atom/mma_traits_sm89.hpp>
#include <cute/atom/mma_traits_sm90_gmma.hpp>
#include <cute/tensor.hpp>

#include "emulator/fragments.h"
#include "emulator/tensor_map.h"
#include "kernels/cuda/primitives/tile_descriptor.h"

namespace {

namespace ours = aerogel::emulator;

long compared = 0, different = 0;

void expect(const char* what, long got, long expected) {
    ++compared;
    if (got == expected) return;
    if (++different <= 20) std::printf("%s: %ld here, %ld in CuTe\n", what, got, expected);
}

/// Layouts of A, B and C of a warp's product: (lane, value) to row + rows * column.
template <class Operation>
void compare_product(const char* name, int per) {
    using Traits = cute::MMA_Traits<Operation>;
    for (int l = 0; l < 32; ++l) {
        for (int v = 0; v < 4 * per; ++v) {
            const ours::Place p = ours::place_in_a(per, l, v / per, v % per);
            expect(name, p.row + 16 * p.column, static_cast<int>(typename Traits::ALayout{}(l, v)));
        }
        for (int v = 0; v < 2 * per; ++v) {
            const ours::Place p = ours::place_in_b(per, l, v / per, v % per);
            expect(name, p.row + 8 * p.column, static_cast<int>(typename Traits::BLayout{}(l, v)));
        }
        for (int v = 0; v < 4; ++v) {
            const ours::Place p = ours::place_in_c(l, v);
            expect(name, p.row + 16 * p.column, static_cast<int>(typename Traits::CLayout{}(l, v)));
        }
    }
}

/// The sums of a warp group, and A where it comes from registers.
template <class Operation>
void compare_group(const char* name, int per, int n, bool registers) {
    using Traits = cute::MMA_Traits<Operation>;
    for (int t = 0; t < 128; ++t) {
        for (int v = 0; v < n / 2; ++v) {
            const ours::Place p = ours::place_in_group(t, v);
            expect(name, p.row + 64 * p.column, static_cast<int>(typename Traits::CLayout{}(t, v)));
        }
        for (int v = 0; registers && v < 4 * per; ++v) {
            const ours::Place p = ours::place_in_a(per, t % 32, v / per, v % per);
            expect(name, t / 32 * 16 + p.row + 64 * p.column,
                   static_cast<int>(typename Traits::ALayout{}(t, v)));
        }
    }
}

/// Scales of MX: the lane that gives them holds that row's in CuTe.
template <class Operation>
void compare_scales(const char* name) {
    using Traits = cute::MMA_Traits<Operation>;
    for (int row = 0; row < 16; ++row) {
        expect(name, row, static_cast<int>(typename Traits::SFALayout{}(ours::lane_of_scale_a(row), 0)));
    }
    for (int row = 0; row < 8; ++row) {
        expect(name, row, static_cast<int>(typename Traits::SFBLayout{}(ours::lane_of_scale_b(row), 0)));
    }
}

/// ldmatrix: bit b of register m of a lane, as a bit of tile m's row.
void compare_ldmatrix() {
    using Plain = cute::Copy_Traits<cute::SM75_U32x4_LDSM_N>;
    using Transposed = cute::Copy_Traits<cute::SM75_U16x8_LDSM_T>;
    for (int l = 0; l < 32; ++l) {
        for (int m = 0; m < 4; ++m) {
            for (int b = 0; b < 32; ++b) {
                const int source = static_cast<int>(Plain::DstLayout{}(l, m * 32 + b));
                expect("ldmatrix", (m * 8 + l / 4) * 128 + l % 4 * 32 + b, source);
                const int row = l % 4 * 2 + b / 16;
                expect("ldmatrix.trans", (m * 8 + row) * 128 + l / 4 * 16 + b % 16,
                       static_cast<int>(Transposed::DstLayout{}(l, m * 32 + b)));
            }
        }
    }
}

/// The address that an element of a swizzled tile of 8 rows has.
template <class T, class Layout>
void compare_swizzle(const char* name, Layout atom, int rows, int columns, bool across) {
    const auto layout =
        cute::as_position_independent_swizzle_layout(atom);  // CuTe swizzles addresses, not offsets
    for (int r = 0; r < rows; ++r) {
        for (int c = 0; c < columns; ++c) {
            const std::size_t plain =
                static_cast<std::size_t>(across ? c * rows + r : r * columns + c) * sizeof(T);
            const std::size_t address = ours::swizzled_address(ours::kSwizzle128, plain);
            expect(name, static_cast<long>(address),
                   static_cast<long>(layout(r, c)) * static_cast<long>(sizeof(T)));
        }
    }
}

/// Strides and swizzle of a descriptor, the address left out: on the host there is no shared memory.
long without_address(std::uint64_t descriptor) {
    return static_cast<long>(descriptor >> 16 << 16);
}

void compare_descriptors() {
    using namespace cute;
    namespace gmma = SM90::GMMA;
    alignas(1024) static unsigned char memory[64 * 1024];
    const auto along = make_tensor(make_smem_ptr(reinterpret_cast<int8_t*>(memory)),
                                   tile_to_shape(gmma::Layout_K_SW128_Atom<int8_t>{}, Shape<_128, _128>{}));
    const auto tile = local_tile(along, Shape<_64, _32>{}, make_coord(0, 0));
    const std::uint64_t ignored = std::uint64_t{0x3FFF}
                                  << 16;  // the leading offset, which this layout does not use
    expect("descriptor", without_address(aerogel::gpu::tile_descriptor(0, 16) & ~ignored),
           without_address(gmma::make_gmma_desc<gmma::Major::K>(tile).desc_ & ~ignored));
    // v of 64 tokens and 128 columns: two boxes of 64 columns behind each other.
    const auto across = make_tensor(
        make_smem_ptr(reinterpret_cast<bfloat16_t*>(memory)),
        tile_to_shape(gmma::Layout_MN_SW128_Atom<bfloat16_t>{}, Shape<_128, _64>{}, Step<_2, _1>{}));
    const auto part = local_tile(across, Shape<_128, _16>{}, make_coord(0, 1));
    expect("descriptor_transposed", without_address(aerogel::gpu::tile_descriptor(0, 64 * 128)),
           without_address(gmma::make_gmma_desc<gmma::Major::MN>(part).desc_));
    const auto across_layout = as_position_independent_swizzle_layout(
        tile_to_shape(gmma::Layout_MN_SW128_Atom<bfloat16_t>{}, Shape<_128, _64>{}, Step<_2, _1>{}));
    const ours::GroupTile fields{2048, 64 * 128, 1024};
    for (int n = 0; n < 128; ++n) {
        for (int k = 0; k < 16; ++k) {
            const std::size_t chunk =
                ours::chunk_across_k(fields, static_cast<std::size_t>(k), static_cast<std::size_t>(n / 8));
            const std::size_t address =
                ours::swizzled_address(ours::kSwizzle128, chunk) + static_cast<std::size_t>(n % 8) * 2;
            expect("tile across k", static_cast<long>(address),
                   static_cast<long>(across_layout(n, 16 + k)) * 2);
        }
    }
    const auto along_layout = as_position_independent_swizzle_layout(
        tile_to_shape(gmma::Layout_K_SW128_Atom<int8_t>{}, Shape<_128, _128>{}));
    const ours::GroupTile rows{32, 16, 1024};
    for (int m = 0; m < 64; ++m) {
        for (int k = 0; k < 32; ++k) {
            const std::size_t chunk =
                ours::chunk_along_k(rows, static_cast<std::size_t>(m), static_cast<std::size_t>(k / 16));
            const std::size_t address =
                ours::swizzled_address(ours::kSwizzle128, chunk) + static_cast<std::size_t>(k % 16);
            expect("tile along k", static_cast<long>(address), static_cast<long>(along_layout(m, 32 + k)));
        }
    }
}

}  // namespace

int main() {
    using namespace cute;
    namespace gmma = SM90::GMMA;
    compare_product<SM80_16x8x32_S32S8S8S32_TN>("mma_s8", 4);
    compare_product<SM80_16x8x16_F32BF16BF16F32_TN>("mma_bf16", 2);
    compare_product<SM80_16x8x16_F32F16F16F32_TN>("mma_f16", 2);
    compare_product<SM89_16x8x32_F32E4M3E4M3F32_TN>("mma_e4m3", 4);
    using E4m3 = float_e4m3_t;
    using E2m1 = float_e2m1_t;
    using Mx4 = SM120::BLOCKSCALED::SM120_16x8x64_TN_VS<E2m1, E2m1, float, float_ue8m0_t, 32>;
    using Mx8 = SM120::BLOCKSCALED::SM120_16x8x32_TN_VS<E4m3, E4m3, float, float_ue8m0_t, 32>;
    compare_product<Mx4>("mma_mxfp4", 8);
    compare_product<Mx8>("mma_mxfp8", 4);
    compare_scales<Mx4>("scales of mma_mxfp4");
    compare_scales<Mx8>("scales of mma_mxfp8");
    compare_group<gmma::MMA_64x128x32_S32S8S8_SS_TN>("wgmma_s8", 4, 128, false);
    compare_group<gmma::MMA_64x256x32_S32S8S8_RS_TN>("wgmma_s8", 4, 256, true);
    compare_group<gmma::MMA_64x64x16_F32BF16BF16_RS<gmma::Major::K, gmma::Major::MN>>("wgmma_bf16", 2, 64,
                                                                                      true);
    compare_group<gmma::MMA_64x128x16_F32F16F16_RS<gmma::Major::K, gmma::Major::K>>("wgmma_f16", 2, 128,
                                                                                    true);
    compare_group<gmma::MMA_64x128x32_F32E4M3E4M3_RS_TN<>>("wgmma_e4m3", 4, 128, true);
    compare_ldmatrix();
    compare_swizzle<int8_t>("swizzle of int8", gmma::Layout_K_SW128_Atom<int8_t>{}, 8, 128, false);
    compare_swizzle<bfloat16_t>("swizzle of bf16", gmma::Layout_K_SW128_Atom<bfloat16_t>{}, 8, 64, false);
    compare_swizzle<bfloat16_t>("swizzle of bf16 across", gmma::Layout_MN_SW128_Atom<bfloat16_t>{}, 64, 8,
                                true);
    compare_descriptors();
    std::printf("%ld compared, %ld different\n", compared, different);
    return different != 0;
}
