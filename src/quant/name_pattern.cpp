// A walk over all readings of the pattern at once. A state is a place in the pattern and what is known there:
//
//   plain       nothing: '[' may begin a set
//   literal     an earlier '[' stands for itself, since no ']' follows; so none may follow. That begins
//   behind
//               the set's first character (behind '!'), which is why there are two states before it.
//   in a set    what the set has taken of the character at hand. Sets may reach over braces: "[{a,b}]" is
//               "[a]" or "[b]".
//
// Each state is visited once per character of the name.
#include "quant/name_pattern.h"

#include <fmt/format.h>

#include <bit>
#include <utility>

#include "aerogel/error.h"
#include "core/text.h"

namespace aerogel {
namespace {

enum State : unsigned { plain, before_first, at_first, literal };

// How the last character of a set lies to the one at hand: it may begin a range.
enum class Order : unsigned { below, equal, above };
Order order_of(char in_set, char c) {
    if (in_set == c) return Order::equal;
    return in_set < c ? Order::below : Order::above;
}

// Where in "[!a-z]" a set is.
enum class Phase : unsigned { open, first, fresh, single, dash };

struct SetState {
    Phase phase = Phase::open;
    Order order = Order::below;  // of single and dash
    bool negated = false;
    bool found = false;

    unsigned bit() const {
        return ((static_cast<unsigned>(phase) * 3 + static_cast<unsigned>(order)) * 2 + (negated ? 1 : 0)) *
                   2 +
               (found ? 1 : 0);
    }
    static SetState of(unsigned bit) {
        SetState state;
        state.found = bit % 2 != 0;
        state.negated = bit / 2 % 2 != 0;
        state.order = static_cast<Order>(bit / 4 % 3);
        state.phase = static_cast<Phase>(bit / 12);
        return state;
    }
};

// The set after its next character `x`, while `c` is looked for; true when `x` closes it.
bool advance(SetState& set, char x, char c) {
    const bool may_close =
        set.phase == Phase::fresh || set.phase == Phase::single || set.phase == Phase::dash;
    if (may_close && x == ']') {
        // "a-]": both stand for themselves.
        set.found = set.found || (set.phase != Phase::fresh && set.order == Order::equal) ||
                    (set.phase == Phase::dash && c == '-');
        return true;
    }
    if (set.phase == Phase::open && (x == '!' || x == '^')) {
        set.negated = true;
        set.phase = Phase::first;
    } else if (set.phase == Phase::single && x == '-') {
        set.phase = Phase::dash;
    } else if (set.phase == Phase::dash) {
        set.found = set.found || (set.order != Order::above && order_of(x, c) != Order::below);
        set = {Phase::fresh, Order::below, set.negated, set.found};
    } else {
        set.found = set.found || (set.phase == Phase::single && set.order == Order::equal);
        set = {Phase::single, order_of(x, c), set.negated, set.found};
    }
    return false;
}

}  // namespace

NamePattern::NamePattern(std::string_view pattern) : text_(pattern) {
    if (text_.size() > kPatternLimit) {
        throw InvalidArgument(fmt::format("[quantize] a pattern must have at most {} characters, got {}: {}",
                                          kPatternLimit, text_.size(), in_quotes(text_)));
    }
    read_braces();
}

void NamePattern::read_braces() {
    const std::size_t size = text_.size();
    jump_.resize(size);
    first_start_.assign(size, 0);
    start_count_.assign(size, 0);
    std::vector<std::size_t> open;               // braces
    std::vector<std::vector<std::size_t>> cuts;  // their commas
    for (std::size_t i = 0; i < size; ++i) {
        jump_[i] = static_cast<std::uint32_t>(i);
        if (text_[i] == '{') {
            open.push_back(i);
            cuts.emplace_back();
        } else if (text_[i] == ',' && !open.empty()) {
            cuts.back().push_back(i);
        } else if (text_[i] == '}' && !open.empty()) {
            const std::size_t brace = open.back();
            const auto behind = static_cast<std::uint32_t>(i + 1);
            first_start_[brace] = static_cast<std::uint32_t>(starts_.size());
            starts_.push_back(static_cast<std::uint32_t>(brace + 1));
            for (const std::size_t cut : cuts.back()) {
                starts_.push_back(static_cast<std::uint32_t>(cut + 1));
                jump_[cut] = behind;
            }
            start_count_[brace] = static_cast<std::uint32_t>(cuts.back().size() + 1);
            jump_[i] = behind;
            open.pop_back();
            cuts.pop_back();
        }
    }
    if (!open.empty()) {
        throw InvalidArgument(
            fmt::format("[quantize] pattern {} has a brace that is not closed", in_quotes(text_)));
    }
}

class NamePattern::Walk {
  public:
    explicit Walk(const NamePattern& pattern)
        : pattern_(pattern),
          size_(pattern.text_.size()),
          now_(size_ + 1),
          next_(size_ + 1),
          sets_(size_ + 1) {
        enter(now_, 0, plain);
    }

    bool over(std::string_view name) {
        for (const char c : name) {
            if (now_.places.empty()) return false;
            take(c);
        }
        return now_.bits[size_] != 0;
    }

  private:
    // States by place; `places` lists those that have any.
    struct States {
        explicit States(std::size_t size) : bits(size, 0) {}
        bool add(std::size_t place, unsigned bit) {
            const std::uint64_t mask = std::uint64_t{1} << bit;
            if ((bits[place] & mask) != 0) return false;
            if (bits[place] == 0) places.push_back(place);
            bits[place] |= mask;
            return true;
        }
        void clear() {
            for (const std::size_t place : places) bits[place] = 0;
            places.clear();
        }
        std::vector<std::uint64_t> bits;
        std::vector<std::size_t> places;
    };
    using Todo = std::vector<std::pair<std::size_t, unsigned>>;

    // Adds a state and what it leads to without reading the name: through braces, and past stars.
    void enter(States& states, std::size_t place, unsigned state) {
        todo_.emplace_back(place, state);
        while (!todo_.empty()) {
            const auto [at, bit] = todo_.back();
            todo_.pop_back();
            if (!states.add(at, bit) || at == size_ || spread(at, bit, todo_)) continue;
            if (pattern_.text_[at] == '*') pass(at, bit, todo_);
        }
    }

    // Past a structural character; false at any other.
    bool spread(std::size_t at, unsigned bit, Todo& todo) const {
        for (std::uint32_t i = 0; i < pattern_.start_count_[at]; ++i) {
            todo.emplace_back(pattern_.starts_[pattern_.first_start_[at] + i], bit);
        }
        if (pattern_.start_count_[at] != 0) return true;
        if (pattern_.jump_[at] == at) return false;
        todo.emplace_back(pattern_.jump_[at], bit);
        return true;
    }

    // Past the character at `at`, as far as the state allows what it is.
    void pass(std::size_t at, unsigned state, Todo& todo) const {
        const char x = pattern_.text_[at];
        if (state == literal && x == ']') return;
        if (state == before_first) {
            state = x == '!' || x == '^' ? at_first : literal;
        } else if (state == at_first) {
            state = literal;
        }
        todo.emplace_back(at + 1, state);
    }

    bool structural(std::size_t at) const {
        return pattern_.start_count_[at] != 0 || pattern_.jump_[at] != at;
    }

    void take(char c) {
        for (const std::size_t at : now_.places) {
            if (at == size_ || structural(at)) continue;
            for (std::uint64_t left = now_.bits[at]; left != 0; left &= left - 1) {
                take(at, static_cast<unsigned>(std::countr_zero(left)), c);
            }
        }
        run_sets(c);
        now_.clear();
        std::swap(now_, next_);
    }

    void take(std::size_t at, unsigned state, char c) {
        const char x = pattern_.text_[at];
        Todo passed;
        if (x == '*') return enter(next_, at, state);
        if (x == '[' && state == plain) {
            begin_set(at + 1);
            if (c == '[') enter(next_, at + 1, before_first);
            return;
        }
        if (x != '?' && x != c) return;
        pass(at, state, passed);
        for (const auto& [place, bit] : passed) enter(next_, place, bit);
    }

    void begin_set(std::size_t place) { set_todo_.emplace_back(place, SetState{}.bit()); }

    // All sets that were begun, to where they end; those that take `c` go on there.
    void run_sets(char c) {
        while (!set_todo_.empty()) {
            const auto [at, bit] = set_todo_.back();
            set_todo_.pop_back();
            if (at == size_ || !sets_.add(at, bit) || spread(at, bit, set_todo_)) continue;
            SetState set = SetState::of(bit);
            if (!advance(set, pattern_.text_[at], c)) {
                set_todo_.emplace_back(at + 1, set.bit());
            } else if (set.found != set.negated) {
                enter(next_, at + 1, plain);
            }
        }
        sets_.clear();
    }

    const NamePattern& pattern_;
    std::size_t size_;
    States now_, next_, sets_;
    Todo todo_, set_todo_;
};

bool NamePattern::matches(std::string_view name) const {
    return Walk(*this).over(name);
}

}  // namespace aerogel
