// Checked getters.
#include "core/json_node.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "aerogel/error.h"
#include "core/input_file.h"
#include "core/json.h"
#include "core/text.h"

namespace aerogel {
namespace {

const nlohmann::json kNothing;

}  // namespace

JsonNode JsonNode::parse(std::string_view text, const std::filesystem::path& path, std::string_view op) {
    auto source = std::make_shared<Source>();
    source->where = fmt::format("[{}] {}", op, path.string());
    source->root = parse_json_object(text, source->where);
    const nlohmann::json* root = &source->root;
    return {std::move(source), root, ""};
}

JsonNode JsonNode::read(const std::filesystem::path& path, std::string_view op) {
    return parse(read_text_file(path, op, kJsonSizeLimit), path, op);
}

JsonNode JsonNode::at(std::string_view key) const {
    if (!value_->is_object()) fail("an object");
    const auto found = value_->find(key);
    return {source_, found == value_->end() ? &kNothing : &*found,
            place_.empty() ? std::string(key) : fmt::format("{}.{}", place_, key)};
}

std::int64_t JsonNode::whole(Bounds bounds) const {
    const auto refuse = [&] { fail(fmt::format("a whole number from {} to {}", bounds.low, bounds.high)); };
    if (!value_->is_number_integer()) refuse();
    // What does not fit an int64 is stored as unsigned.
    const bool huge =
        value_->is_number_unsigned() &&
        value_->get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    const std::int64_t x = huge ? 0 : value_->get<std::int64_t>();
    if (huge || x < bounds.low || x > bounds.high) refuse();
    return x;
}

double JsonNode::number(double low, double high) const {
    const double x = value_->is_number() ? value_->get<double>() : std::nan("");
    if (!(x >= low && x <= high)) fail(fmt::format("a number from {} to {}", low, high));
    return x;
}

bool JsonNode::flag() const {
    if (!value_->is_boolean()) fail("true or false");
    return value_->get<bool>();
}

const std::string& JsonNode::text() const {
    if (!value_->is_string()) fail("a string");
    return value_->get_ref<const std::string&>();
}

const std::string& JsonNode::word(std::span<const std::string_view> words) const {
    const bool known = value_->is_string() && std::find(words.begin(), words.end(),
                                                        value_->get_ref<const std::string&>()) != words.end();
    if (!known) fail(fmt::format("{}{}", words.size() > 1 ? "one of " : "", fmt::join(words, ", ")));
    return value_->get_ref<const std::string&>();
}

std::vector<JsonNode> JsonNode::items(std::string_view wanted) const {
    if (!value_->is_array()) fail(wanted);
    std::vector<JsonNode> nodes;
    nodes.reserve(value_->size());
    for (std::size_t i = 0; i < value_->size(); ++i) {
        nodes.push_back({source_, &(*value_)[i], fmt::format("{}[{}]", place_, i)});
    }
    return nodes;
}

void JsonNode::check_keys(std::span<const std::string_view> known) const {
    for (const auto& [key, value] : value_->items()) {
        if (std::find(known.begin(), known.end(), key) != known.end()) continue;
        throw InvalidArgument(fmt::format("{}: {}unknown key {}, there are: {}", source_->where,
                                          place_.empty() ? "" : place_ + ": ", in_quotes(key),
                                          fmt::join(known, ", ")));
    }
}

void JsonNode::fail(std::string_view wanted) const {
    throw InvalidArgument(fmt::format("{}: {} must be {}, got {}", source_->where,
                                      place_.empty() ? "it" : place_, wanted,
                                      value_ == &kNothing ? "nothing" : show_json(*value_)));
}

}  // namespace aerogel
