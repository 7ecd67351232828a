// What the linear kernels of all CPU levels share apart from arithmetic: y is cut into tasks, k into blocks
// that fit the first cache, a task into blocks of rows x one panel of columns that a register kernel
// computes. Everything is counted in steps: one step is the 4 bytes of x that one lane consumes (one
// float, two int16 or bfloat16, four int8), so one driver serves all of them.
// Included by sources built for one CPU level, so everything is local to the including file.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/thread_pool.h"
#include "kernels/linear.h"

namespace aerogel {
namespace {

constexpr std::int64_t kBlockSteps = 256;  ///< steps of x that lie together, the most of a block of k
/// Steps between two rows of x: an odd number of cache lines, so that rows spread over the cache's sets.
constexpr std::int64_t kRowSteps = kBlockSteps + 16;

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
    return (a + b - 1) / b;
}
constexpr std::size_t aligned_bytes(std::int64_t bytes) {
    return static_cast<std::size_t>(ceil_div(bytes, 64) * 64);
}

struct Range {
    std::int64_t first;
    std::int64_t count;
};

/// Part `i` of `parts` nearly equal parts of [0, total).
constexpr Range part_of(std::int64_t total, std::int64_t parts, std::int64_t i) {
    const std::int64_t size = total / parts;
    const std::int64_t larger = total % parts;
    return {i * size + (i < larger ? i : larger), size + (i < larger ? 1 : 0)};
}

/// The most rows and columns of y of one task.
struct TaskSize {
    std::int64_t rows = 264, columns = 256;
};

/// How y is cut into tasks. Depends on the problem only, never on the number of threads.
struct Tiling {
    static constexpr std::int64_t kTileRows = TaskSize{}.rows;
    static constexpr std::int64_t kWantedTasks = 24;

    constexpr Tiling(std::int64_t m, std::int64_t n, std::int64_t panel, TaskSize most = {})
        : rows(m),
          panels(ceil_div(n, panel)),
          row_tiles(ceil_div(m, most.rows)),
          column_tiles(ceil_div(n, most.columns)) {
        while (row_tiles * column_tiles < kWantedTasks && column_tiles * 2 <= panels) column_tiles *= 2;
        while (row_tiles * column_tiles < kWantedTasks && row_tiles * 2 * 28 <= rows) row_tiles *= 2;
    }
    constexpr std::int64_t tasks() const { return row_tiles * column_tiles; }
    constexpr Range rows_of(std::int64_t task) const { return part_of(rows, row_tiles, task / column_tiles); }
    constexpr Range panels_of(std::int64_t task) const {
        return part_of(panels, column_tiles, task % column_tiles);
    }

    std::int64_t rows;
    std::int64_t panels;
    std::int64_t row_tiles;
    std::int64_t column_tiles;
};

/// Most panels of a task.
constexpr std::int64_t largest_panels(const Tiling& t) {
    return ceil_div(t.panels, t.column_tiles);
}
constexpr std::int64_t largest_rows(const Tiling& t) {
    return ceil_div(t.rows, t.row_tiles);
}

/// Memory that will be needed soon: a slice of the next panel, fetched while the current one is at work.
/// Without it every panel's first use would wait for the last-level cache.
struct Prefetch {
    static constexpr std::int64_t kSteps = 8;  ///< a portion is fetched every kSteps steps

    const std::byte* from = nullptr;
    std::int64_t lines = 0;  ///< cache lines per portion

    [[gnu::always_inline]] void portion(std::int64_t i) const {
        const std::byte* line = from + i * lines * 64;
        for (std::int64_t l = 0; l < lines; ++l) __builtin_prefetch(line + l * 64, 0, 2);
    }
};

/// One call of a register kernel: sums[rows][columns] (+)= x[rows][steps] * w[steps][columns].
struct Block {
    const std::int32_t* x;  ///< rows are kRowSteps apart
    const void* w;          ///< one panel, step after step
    void* sums;             ///< rows are one panel apart
    std::int64_t steps;
    bool first;           ///< start from zero
    Prefetch ahead = {};  ///< to be fetched meanwhile
};

/// Where a finished block of sums belongs in y.
struct Place {
    std::int64_t row;
    std::int64_t rows;
    std::int64_t panel;
};

template <typename Kernel>
concept FinishesLate = requires {
    requires Kernel::kFinishesLate;
};

/// Inlined, as what calls it: GCC drops calls of a function that does nothing but prefetch.
[[gnu::always_inline]] inline void prefetch_bytes(const void* from, std::int64_t bytes) {
    for (std::int64_t at = 0; at < bytes; at += 64)
        __builtin_prefetch(static_cast<const std::byte*>(from) + at, 0, 2);
}

/// Asks for the lines of y that a block's epilogue will write, while block `at` of `blocks` of k is
/// multiplied: its rows are spread over all but the last.
template <typename Kernel>
[[gnu::always_inline]] inline void expect_output(const Kernel& kernel, const Place& place, std::int64_t at,
                                                 std::int64_t blocks) {
    if constexpr (requires { kernel.expect_output(place); }) {
        if (at + 1 == blocks) return;
        const Range some = part_of(place.rows, blocks - 1, at);
        kernel.expect_output({place.row + some.first, some.count, place.panel});
    }
}

/// Of the block of k from `first` on; the last one may be shorter.
template <typename Kernel>
constexpr std::int64_t block_steps(std::int64_t first, std::int64_t steps) {
    return steps - first < Kernel::kSteps ? steps - first : Kernel::kSteps;
}

/// Asks for these rows of x in the block of k from `first` on, where the kernel wants that.
template <typename Kernel>
[[gnu::always_inline]] inline void expect_input(const Kernel& kernel, const Range& rows, std::int64_t first,
                                                std::int64_t steps) {
    if constexpr (requires { requires Kernel::kExpectsInput; }) {
        if (first >= steps) return;
        const std::int64_t count = block_steps<Kernel>(first, steps);
        const std::int32_t* x = kernel.x_block(rows, first, count);
        for (std::int64_t r = 0; r < rows.count; ++r) prefetch_bytes(x + r * kRowSteps, count * 4);
    }
}

/// Finishes blocks at once, or each after the products of the next.
template <typename Kernel>
class FinishedBlocks {
  public:
    explicit FinishedBlocks(Kernel& kernel) : kernel_(kernel) {}

    void add(const Place& place, std::byte* sums) {
        if constexpr (FinishesLate<Kernel>) {
            flush();
            place_ = place;
            sums_ = sums;
        } else {
            kernel_.finish(place, sums);
        }
    }

    void flush() {
        if (sums_ != nullptr) kernel_.finish(place_, sums_);
        sums_ = nullptr;
    }

  private:
    Kernel& kernel_;
    Place place_ = {};
    std::byte* sums_ = nullptr;
};

/// Runs one task. `Kernel` has
///   kRows, kColumns              the register block
///   kSteps                       steps per block of k, a divisor of kBlockSteps
///   step_bytes                   bytes of a packed panel per step
///   x_block(rows, first, count)  x of these rows, steps [first, first + count), rows kRowSteps apart
///   w_source(panel, first)       the packed panel from that step on
///   w_block(panel, first, count) the same, as the register kernel wants it
///   multiply(rows, block)        the register kernel
///   finish(place, sums)          the epilogue of one block; with kFinishesLate, of the block before
///   sums                         memory of sums_bytes()
/// and may have
///   expect_output(place)         asks for the lines of y that finish() will write
///   kExpectsInput                the second cache holds x of two blocks of k: asks for the next one
template <typename Kernel>
void run_task(Kernel& kernel, const Range rows, const Range panels, std::int64_t steps) {
    constexpr std::int64_t kPanelBytes = Kernel::kColumns * 4;
    static_assert(kBlockSteps % Kernel::kSteps == 0);
    const std::int64_t blocks = ceil_div(rows.count, Kernel::kRows);
    FinishedBlocks finished(kernel);
    for (std::int64_t first = 0; first < steps; first += Kernel::kSteps) {
        const std::int64_t count = block_steps<Kernel>(first, steps);
        const bool last = first + count == steps;
        const std::int32_t* x = kernel.x_block(rows, first, count);
        const std::int64_t portions = ceil_div(count, Prefetch::kSteps);
        const std::int64_t lines = ceil_div(ceil_div(count * kernel.step_bytes, 64), blocks * portions);
        for (std::int64_t p = 0; p < panels.count; ++p) {
            const void* w = kernel.w_block(panels.first + p, first, count);
            Prefetch ahead;
            if (p + 1 < panels.count || !last) {
                ahead.lines = lines;
                ahead.from = p + 1 < panels.count ? kernel.w_source(panels.first + p + 1, first)
                                                  : kernel.w_source(panels.first, first + count);
            }
            for (std::int64_t b = 0; b < blocks; ++b, ahead.from += portions * ahead.lines * 64) {
                const Range block = part_of(rows.count, blocks, b);
                std::byte* sums = kernel.sums + (p * rows.count + block.first) * kPanelBytes;
                const Place place = {rows.first + block.first, block.count, panels.first + p};
                expect_output(kernel, place, first / Kernel::kSteps, ceil_div(steps, Kernel::kSteps));
                const Range some = part_of(block.count, panels.count, p);
                expect_input(kernel, {place.row + some.first, some.count}, first + count, steps);
                kernel.multiply(block.count,
                                Block{x + block.first * kRowSteps, w, sums, count, first == 0, ahead});
                if ((b + 1) * portions * lines * 64 >= count * kernel.step_bytes) ahead.lines = 0;
                if (last) finished.add(place, sums);
            }
        }
    }
    finished.flush();
}

/// Bytes of the sums of one worker.
constexpr std::size_t sums_bytes(const Tiling& tiling, std::int64_t columns) {
    return aligned_bytes(largest_rows(tiling) * largest_panels(tiling) * columns * 4);
}

}  // namespace
}  // namespace aerogel
