// The outline of a text by the events of yaml-cpp's parser; reading values and saying what is wrong with
// them.
#include "quant/recipe_yaml.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <set>
#include <sstream>
#include <vector>

#include "aerogel/error.h"
#include "core/text.h"

namespace aerogel {
namespace {

constexpr std::size_t kDepthLimit = 64;
constexpr std::size_t kValueLimit = 100'000;

class Events final : public YAML::EventHandler {
  public:
    Events(const std::string& where, std::map<std::string, std::set<std::string>>& uses)
        : where_(where), uses_(uses) {}

    void OnDocumentStart(const YAML::Mark&) override {}
    void OnDocumentEnd() override {}
    void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override { scalar(mark, anchor, ""); }
    void OnScalar(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                  const std::string& value) override {
        scalar(mark, anchor, value);
    }
    void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                         YAML::EmitterStyle::value) override {
        open(mark, anchor);
    }
    void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                    YAML::EmitterStyle::value) override {
        open(mark, anchor);
    }
    void OnSequenceEnd() override { close(); }
    void OnMapEnd() override { close(); }
    void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
        const auto found = anchors_.find(anchor);
        if (found == anchors_.end() || !found->second.finished)
            fail(mark, "an alias stands in what it names");
        uses_[key_].insert(found->second.key);
        step("");
        grow(mark, found->second.size);
    }

  private:
    struct Anchor {
        std::string key;  // of the file's mapping
        std::size_t size = 0;
        bool finished = false;
    };
    struct Open {
        YAML::anchor_t anchor;
        std::size_t size;
    };

    [[noreturn]] void fail(const YAML::Mark& mark, const std::string& what) const {
        throw InvalidArgument(fmt::format("{}:{}: {}", where_, mark.line + 1, what));
    }
    // Keys and values of the file's mapping take turns.
    void step(const std::string& value) {
        if (open_.size() != 1) return;
        if (at_key_) key_ = value;
        at_key_ = !at_key_;
    }
    void grow(const YAML::Mark& mark, std::size_t size) {
        if (!open_.empty()) open_.back().size += size;
        // No part is larger than the limit, so sums cannot overflow.
        if (size > kValueLimit || (!open_.empty() && open_.back().size > kValueLimit)) {
            fail(mark, fmt::format("holds more than {} values, aliases written out", kValueLimit));
        }
    }
    void scalar(const YAML::Mark& mark, YAML::anchor_t anchor, const std::string& value) {
        step(value);
        grow(mark, 1);
        if (anchor != 0) anchors_[anchor] = {key_, 1, true};
    }
    void open(const YAML::Mark& mark, YAML::anchor_t anchor) {
        step("");
        if (open_.size() >= kDepthLimit) fail(mark, fmt::format("nested deeper than {} levels", kDepthLimit));
        if (anchor != 0) anchors_[anchor] = {key_, 0, false};
        open_.push_back({anchor, 1});
        last_ = mark;
    }
    void close() {
        const Open done = open_.back();
        open_.pop_back();
        if (done.anchor != 0) {
            anchors_[done.anchor].size = done.size;
            anchors_[done.anchor].finished = true;
        }
        grow(last_, done.size);
    }

    const std::string& where_;
    std::map<std::string, std::set<std::string>>& uses_;
    std::map<YAML::anchor_t, Anchor> anchors_;
    std::vector<Open> open_;
    YAML::Mark last_;
    std::string key_;
    bool at_key_ = true;
};

}  // namespace

RecipeOutline::RecipeOutline(const std::string& text, const std::string& where) {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    Events events(where, uses_);
    parser.HandleNextDocument(events);
}

std::set<std::string> RecipeOutline::used_by(const std::string& key) const {
    std::set<std::string> used;
    std::vector<std::string> todo = {key};
    while (!todo.empty()) {
        const auto found = uses_.find(todo.back());
        todo.pop_back();
        if (found == uses_.end()) continue;
        for (const std::string& other : found->second) {
            if (used.insert(other).second) todo.push_back(other);
        }
    }
    return used;
}

std::string RecipeNode::where() const {
    const int line = node_.Mark().line;
    const std::string at = line < 0 ? file_ : fmt::format("{}:{}", file_, line + 1);
    return place_.empty() ? fmt::format("[recipe] {}", at) : fmt::format("[recipe] {}: {}", at, place_);
}

void RecipeNode::fail(const std::string& what) const {
    throw InvalidArgument(fmt::format("{} {}", where(), what));
}

void RecipeNode::refuse(const std::string& what) const {
    throw Unsupported(fmt::format("{} {}", where(), what));
}

bool RecipeNode::has(const char* key) const {
    return node_.IsMap() && node_[key].IsDefined();
}

RecipeNode RecipeNode::at(const char* key) const {
    if (!has(key)) fail(fmt::format("must have the key '{}', it has none", key));
    return {node_[key], file_, place_.empty() ? std::string(key) : fmt::format("{}.{}", place_, key)};
}

std::vector<RecipeNode> RecipeNode::items(const char* key) const {
    std::vector<RecipeNode> result;
    if (!has(key)) return result;
    const RecipeNode list = at(key);
    if (!list.node_.IsSequence()) list.fail("must be a list");
    for (std::size_t i = 0; i < list.node_.size(); ++i) {
        result.emplace_back(list.node_[i], file_, fmt::format("{}[{}]", list.place_, i));
    }
    return result;
}

std::vector<std::string> RecipeNode::keys() const {
    if (!node_.IsMap()) fail("must be a mapping");
    std::vector<std::string> keys;
    std::set<std::string_view> seen;  // of the nodes, which stay where they are
    for (const auto& item : node_) {
        if (!item.first.IsScalar()) fail("must have plain words as keys");
        keys.push_back(item.first.Scalar());
        if (!seen.insert(item.first.Scalar()).second) {
            fail(fmt::format("has the key {} twice", in_quotes(keys.back())));
        }
    }
    return keys;
}

void RecipeNode::check_keys(const std::vector<std::string>& known) const {
    for (const std::string& key : keys()) {
        if (std::find(known.begin(), known.end(), key) != known.end()) continue;
        fail(fmt::format("has the unknown key {}{}; there are: {}", in_quotes(key), suggestion(key, known),
                         fmt::join(known, ", ")));
    }
}

template <typename T>
T RecipeNode::as(const char* kind) const {
    T value{};
    if (node_.IsScalar() && YAML::convert<T>::decode(node_, value)) return value;
    fail(fmt::format("must be {}, got {}", kind,
                     node_.IsScalar() ? in_quotes(node_.Scalar()) : std::string("another kind of value")));
}

std::string RecipeNode::text() const {
    return as<std::string>("a word");
}
bool RecipeNode::flag() const {
    return as<bool>("True or False");
}
std::int64_t RecipeNode::integer() const {
    return as<std::int64_t>("a whole number");
}
double RecipeNode::number() const {
    return as<double>("a number");
}

}  // namespace aerogel
