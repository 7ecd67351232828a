// Reading values and saying what is wrong with them.
#include "quant/recipe_node.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "aerogel/error.h"
#include "core/text.h"

namespace aerogel {

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
