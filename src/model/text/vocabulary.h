// Tokens and their ids, both ways.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

namespace aerogel {

inline constexpr std::int64_t kLargestId = (std::int64_t{1} << 31) - 2;

/// Bytes of a token. What looks for tokens at every place of a text walks as far at most.
inline constexpr std::size_t kLongestToken = 1024;

class Vocabulary {
  public:
    enum class Added { yes, token_is_there, id_is_there };

    /// Nothing is added when the token or the id is there already.
    Added add(std::string_view token, std::int32_t id) {
        if (ids_.contains(token)) return Added::token_is_there;
        if (tokens_.contains(id)) return Added::id_is_there;
        const auto entry = ids_.emplace(token, id).first;
        tokens_.emplace(id, &entry->first);  // nodes do not move
        size_ = std::max(size_, std::int64_t{id} + 1);
        return Added::yes;
    }
    std::optional<std::int32_t> id(std::string_view token) const {
        const auto found = ids_.find(token);
        return found == ids_.end() ? std::nullopt : std::optional(found->second);
    }
    const std::string* token(std::int32_t id) const {
        const auto found = tokens_.find(id);
        return found == tokens_.end() ? nullptr : found->second;
    }
    std::int64_t size() const { return size_; }
    std::size_t count() const { return ids_.size(); }

    Vocabulary() = default;
    Vocabulary(Vocabulary&&) = default;
    Vocabulary& operator=(Vocabulary&&) = default;

  private:
    struct Hash {
        using is_transparent = void;
        std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
    };
    std::unordered_map<std::string, std::int32_t, Hash, std::equal_to<>> ids_;
    std::unordered_map<std::int32_t, const std::string*> tokens_;
    std::int64_t size_ = 0;
};

}  // namespace aerogel
