// BlockMask: consistency, density and the way to and from dense bytes.
#include "aerogel/block_mask.h"

#include <algorithm>
#include <limits>
#include <string>

#include "aerogel/error.h"

namespace aerogel {
namespace {

[[noreturn]] void fail(const BlockMask& mask, const std::string& what) {
    throw InvalidArgument("[block_mask] " + what + " (batch " + std::to_string(mask.batch) + ", heads " +
                          std::to_string(mask.heads) + ", " + std::to_string(mask.q_len) + " x " +
                          std::to_string(mask.k_len) + " tokens in blocks of " +
                          std::to_string(mask.block_q) + " x " + std::to_string(mask.block_k) + ")");
}

void check_geometry(const BlockMask& mask) {
    const auto positive = [&](std::int64_t value, const char* name) {
        if (value < 1) fail(mask, std::string(name) + " must be >= 1, got " + std::to_string(value));
    };
    positive(mask.batch, "batch");
    positive(mask.heads, "heads");
    positive(mask.q_len, "q_len");
    positive(mask.k_len, "k_len");
    positive(mask.block_q, "block_q");
    positive(mask.block_k, "block_k");
    constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
    if (mask.q_len > kMost || mask.k_len > kMost || mask.block_q > kMost || mask.block_k > kMost) {
        fail(mask, "lengths and block sizes must be below 2^31");
    }
    std::int64_t blocks = 0;
    if (__builtin_mul_overflow(mask.batch, mask.heads, &blocks) ||
        __builtin_mul_overflow(blocks, mask.q_blocks(), &blocks) ||
        __builtin_mul_overflow(blocks, mask.k_blocks(), &blocks)) {
        fail(mask, "the number of blocks overflows");
    }
}

void check_row(const BlockMask& mask, std::size_t row) {
    const auto at = [&] { return "row " + std::to_string(row) + ": "; };
    const std::int64_t begin = mask.row_start[row];
    const std::int64_t end = mask.row_start[row + 1];
    if (end < begin) {
        fail(mask, at() + "row_start must not descend, got " + std::to_string(begin) + " then " +
                       std::to_string(end));
    }
    if (end > static_cast<std::int64_t>(mask.columns.size())) {
        fail(mask, at() + "row_start must stay within the " + std::to_string(mask.columns.size()) +
                       " columns, got " + std::to_string(end));
    }
    for (std::int64_t i = begin; i < end; ++i) {
        const std::int32_t column = mask.columns[static_cast<std::size_t>(i)];
        if (column < 0 || column >= mask.k_blocks()) {
            fail(mask, at() + "columns must be in [0," + std::to_string(mask.k_blocks()) + "), got " +
                           std::to_string(column));
        }
        if (i > begin && column <= mask.columns[static_cast<std::size_t>(i - 1)]) {
            fail(mask, at() + "columns must ascend, got " +
                           std::to_string(mask.columns[static_cast<std::size_t>(i - 1)]) + " then " +
                           std::to_string(column));
        }
    }
}

// Kept scores of the rows of map `map`.
std::int64_t kept_scores(const BlockMask& mask, std::int64_t map) {
    std::int64_t kept = 0;
    for (std::int64_t block = 0; block < mask.q_blocks(); ++block) {
        const auto row = static_cast<std::size_t>(map * mask.q_blocks() + block);
        const std::int64_t begin = mask.row_start[row];
        const std::int64_t end = mask.row_start[row + 1];
        std::int64_t keys = (end - begin) * mask.block_k;
        const bool holds_last =
            end > begin && mask.columns[static_cast<std::size_t>(end - 1)] == mask.k_blocks() - 1;
        if (holds_last) keys -= mask.k_blocks() * mask.block_k - mask.k_len;
        kept += keys * std::min(mask.block_q, mask.q_len - block * mask.block_q);
    }
    return kept;
}

double density_of_map(const BlockMask& mask, std::int64_t map) {
    return static_cast<double>(kept_scores(mask, map)) /
           (static_cast<double>(mask.q_len) * static_cast<double>(mask.k_len));
}

}  // namespace

void BlockMask::check() const {
    check_geometry(*this);
    const auto rows = static_cast<std::size_t>(batch * heads * q_blocks());
    if (row_start.size() != rows + 1) {
        fail(*this, "row_start must have " + std::to_string(rows + 1) + " elements, got " +
                        std::to_string(row_start.size()));
    }
    if (row_start.front() != 0 || row_start.back() != static_cast<std::int64_t>(columns.size())) {
        fail(*this, "row_start must go from 0 to " + std::to_string(columns.size()) + ", got " +
                        std::to_string(row_start.front()) + " to " + std::to_string(row_start.back()));
    }
    for (std::size_t row = 0; row < rows; ++row) check_row(*this, row);
}

double BlockMask::density(std::int64_t map) const {
    check();
    if (map < 0 || map >= batch * heads) {
        fail(*this, "map must be in [0," + std::to_string(batch * heads) + "), got " + std::to_string(map));
    }
    return density_of_map(*this, map);
}

double BlockMask::density() const {
    check();
    const std::int64_t maps = batch * heads;
    double sum = 0;
    for (std::int64_t map = 0; map < maps; ++map) sum += density_of_map(*this, map);
    return sum / static_cast<double>(maps);
}

BlockMask BlockMask::from_dense(const std::uint8_t* dense, const BlockMask& geometry) {
    check_geometry(geometry);
    if (dense == nullptr) fail(geometry, "there is no dense mask");
    BlockMask mask = geometry;
    mask.columns.clear();
    mask.row_start.assign(1, 0);
    const std::int64_t rows = mask.batch * mask.heads * mask.q_blocks();
    const std::int64_t width = mask.k_blocks();
    mask.row_start.reserve(static_cast<std::size_t>(rows) + 1);
    for (std::int64_t row = 0; row < rows; ++row) {
        for (std::int64_t column = 0; column < width; ++column) {
            if (dense[row * width + column] != 0) mask.columns.push_back(static_cast<std::int32_t>(column));
        }
        mask.row_start.push_back(static_cast<std::int64_t>(mask.columns.size()));
    }
    return mask;
}

std::vector<std::uint8_t> BlockMask::to_dense() const {
    check();
    const auto width = static_cast<std::size_t>(k_blocks());
    const std::size_t rows = row_start.size() - 1;
    std::vector<std::uint8_t> dense(rows * width, 0);
    for (std::size_t row = 0; row < rows; ++row) {
        for (std::int64_t i = row_start[row]; i < row_start[row + 1]; ++i) {
            dense[row * width + static_cast<std::size_t>(columns[static_cast<std::size_t>(i)])] = 1;
        }
    }
    return dense;
}

}  // namespace aerogel
