// The rows of a case's arrays put into random places, with the orders that lead to them.
#pragma once

#include <algorithm>
#include <numeric>
#include <random>

#include "kernels/attention_cases.h"

namespace aerogel::testing {

/// Moves row i of every map of q, and of k and v, to a place of its own and gives the arrays the order that
/// says where. Lives as long as the arrays are used.
class ShuffledTokens {
  public:
    explicit ShuffledTokens(AttentionData& data) : data_(data) {
        const AttentionProblem& p = data.test_case.problem;
        for (std::int64_t map = 0; map < p.maps(); ++map) q_.push_back(shuffled(p.q_len));
        for (std::int64_t map = 0; map < p.kv_maps(); ++map) k_.push_back(shuffled(p.k_len));
        for (const auto& order : q_) q_orders_.push_back(order.data());
        for (const auto& order : k_) k_orders_.push_back(order.data());
        move(data.q, q_, true);
        move(data.k, k_, true);
        move(data.v, k_, true);
        data.q.strides.order = q_orders_.data();
        data.k.strides.order = data.v.strides.order = k_orders_.data();
    }

    /// An output back in the order of the rows.
    PaddedArray undone(PaddedArray o) const {
        move(o, q_, false);
        return o;
    }

  private:
    using Orders = std::vector<std::vector<std::int32_t>>;

    std::vector<std::int32_t> shuffled(std::int64_t count) {
        std::vector<std::int32_t> order(static_cast<std::size_t>(count));
        std::iota(order.begin(), order.end(), 0);
        std::shuffle(order.begin(), order.end(), random_);
        return order;
    }

    void move(PaddedArray& array, const Orders& orders, bool out) const {
        const PaddedArray before = array;
        const bool of_keys = &orders == &k_;
        const auto index = [&](std::size_t map, std::int64_t row) {
            const auto at = static_cast<std::int64_t>(map);
            return of_keys ? data_.kv_index(array.strides, at, row) : data_.index(array.strides, at, row);
        };
        for (std::size_t map = 0; map < orders.size(); ++map) {
            for (std::size_t row = 0; row < orders[map].size(); ++row) {
                std::int64_t from = index(map, static_cast<std::int64_t>(row));
                std::int64_t to = index(map, orders[map][row]);
                if (!out) std::swap(from, to);
                const auto size = static_cast<std::int64_t>(size_of(array.dtype));
                std::copy_n(before.bytes.begin() + from * size, data_.test_case.problem.head_dim * size,
                            array.bytes.begin() + to * size);
            }
        }
    }

    const AttentionData& data_;
    std::mt19937 random_{5};
    Orders q_, k_;
    std::vector<const std::int32_t*> q_orders_, k_orders_;
};

}  // namespace aerogel::testing
