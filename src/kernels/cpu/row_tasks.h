// How rows are shared among threads where a row is little work.
#pragma once

#include <cstdint>

#include "base/thread_pool.h"

namespace aerogel {
namespace {

/// Elements per task: large enough to hide the hand-out of tasks, small enough to share evenly.
constexpr std::int64_t kTaskElements = 16384;

/// Runs row(r) for all rows, in tasks of whole rows.
template <typename Row>
void for_rows(std::int64_t rows, std::int64_t columns, const Row& row) {
    const std::int64_t per_task = columns >= kTaskElements || columns <= 0 ? 1 : kTaskElements / columns;
    parallel_for((rows + per_task - 1) / per_task, [&](std::int64_t task, int) {
        const std::int64_t end = (task + 1) * per_task < rows ? (task + 1) * per_task : rows;
        for (std::int64_t r = task * per_task; r < end; ++r) row(r);
    });
}

}  // namespace
}  // namespace aerogel
