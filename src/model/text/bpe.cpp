// Joins by a queue of candidates, so that a word of any length takes n log n steps. Stale candidates stay in
// the queue and are recognised when their turn comes.
#include "model/text/bpe.h"

#include <fmt/format.h>

#include <queue>

#include "model/text/unicode.h"

namespace aerogel {
namespace {

constexpr std::size_t kNone = static_cast<std::size_t>(-1);

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
    return std::uint64_t{static_cast<std::uint32_t>(left)} << 32U | static_cast<std::uint32_t>(right);
}

}  // namespace

// The word while it is joined: a linked list of symbols, and pairs to be joined.
struct Bpe::Merging {
    struct Symbol {
        std::int32_t id;
        std::size_t previous;
        std::size_t next;
        bool gone = false;
    };
    struct Candidate {
        std::uint32_t rank;
        std::size_t position;
        std::int32_t joined;
        // The queue gives its largest: the lowest rank, then the leftmost.
        bool operator<(const Candidate& other) const {
            return rank != other.rank ? rank > other.rank : position > other.position;
        }
    };

    Merging(const Bpe& owner, const std::vector<std::int32_t>& ids) : bpe(owner) {
        symbols.reserve(ids.size());
        for (std::size_t i = 0; i < ids.size(); ++i) {
            symbols.push_back({ids[i], i == 0 ? kNone : i - 1, i + 1 == ids.size() ? kNone : i + 1});
        }
        for (std::size_t i = 0; i + 1 < ids.size(); ++i) offer(i);
    }

    // The pair that begins at a symbol.
    void offer(std::size_t position) {
        const std::size_t next = symbols[position].next;
        if (next == kNone) return;
        const Merge* merge = bpe.find(symbols[position].id, symbols[next].id);
        if (merge != nullptr) queue.push({merge->rank, position, merge->joined});
    }

    void run() {
        while (!queue.empty()) {
            const Candidate best = queue.top();
            queue.pop();
            Symbol& left = symbols[best.position];
            if (left.gone || left.next == kNone) continue;
            Symbol& right = symbols[left.next];
            const Merge* merge = bpe.find(left.id, right.id);
            if (merge == nullptr || merge->joined != best.joined) continue;  // one side has changed since
            left.id = best.joined;
            left.next = right.next;
            right.gone = true;
            if (left.next != kNone) symbols[left.next].previous = best.position;
            if (left.previous != kNone) offer(left.previous);
            offer(best.position);
        }
    }

    const Bpe& bpe;
    std::vector<Symbol> symbols;
    std::priority_queue<Candidate> queue;
};

void Bpe::add_merge(std::int32_t left, std::int32_t right, std::int32_t joined) {
    merges_[pair_key(left, right)] = {next_rank_++, joined};
}

const Bpe::Merge* Bpe::find(std::int32_t left, std::int32_t right) const {
    const auto found = merges_.find(pair_key(left, right));
    return found == merges_.end() ? nullptr : &found->second;
}

bool Bpe::add_bytes(const Vocabulary& vocabulary, std::string_view character,
                    std::vector<std::int32_t>& ids) const {
    std::vector<std::int32_t> found;
    for (const char byte : character) {
        const auto id = vocabulary.id(fmt::format("<0x{:02X}>", static_cast<unsigned char>(byte)));
        if (!id) return false;
        found.push_back(*id);
    }
    ids.insert(ids.end(), found.begin(), found.end());
    return true;
}

std::vector<std::int32_t> Bpe::split(const Vocabulary& vocabulary, std::string_view word) const {
    std::vector<std::int32_t> ids;
    // An unknown character waits for the next known one: bytes of a later unknown one come before it then,
    // and unknown ones without a known one between them may be fused. That is how Hugging Face's tokenizers
    // do it.
    bool waiting = false;
    const auto flush = [&] {
        if (waiting) ids.push_back(*options_.unknown);
        waiting = false;
    };
    for (std::size_t at = 0; at < word.size();) {
        const std::size_t begin = at;
        next_character(word, at);
        const std::string_view character = word.substr(begin, at - begin);
        if (const auto id = vocabulary.id(character)) {
            flush();
            ids.push_back(*id);
        } else if (!options_.byte_fallback || !add_bytes(vocabulary, character, ids)) {
            if (!options_.fuse_unknown) flush();
            waiting = options_.unknown.has_value();
        }
    }
    flush();
    return ids;
}

void Bpe::encode(const Vocabulary& vocabulary, std::string_view word, std::vector<std::int32_t>& ids) const {
    if (options_.ignore_merges) {
        if (const auto id = vocabulary.id(word)) {
            ids.push_back(*id);
            return;
        }
    }
    Merging merging(*this, split(vocabulary, word));
    merging.run();
    for (const auto& symbol : merging.symbols) {
        if (!symbol.gone) ids.push_back(symbol.id);
    }
}

}  // namespace aerogel
