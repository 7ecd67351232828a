// Limits in front of nlohmann's parser, which itself keeps its state on the heap; trees are shallow then, so
// that copying, printing and freeing them is safe too.
#include "core/json.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <unordered_set>
#include <utility>
#include <vector>

#include "aerogel/error.h"
#include "core/input_file.h"
#include "core/text.h"

namespace aerogel {
namespace {

using Json = nlohmann::json;

// Hands on what is within the limits.
class Guard final : public nlohmann::json_sax<Json> {
  public:
    Guard(const std::string& where, JsonEvents& events) : where_(where), events_(events) {}

    bool null() override { return value("null") && events_.null(); }
    bool boolean(bool x) override { return value("a boolean") && events_.boolean(x); }
    bool number_integer(number_integer_t x) override {
        return value("a number") && events_.number_integer(x);
    }
    bool number_unsigned(number_unsigned_t x) override {
        return value("a number") && events_.number_unsigned(x);
    }
    bool number_float(number_float_t x, const string_t& text) override {
        return value("a number") && events_.number_float(x, text);
    }
    bool string(string_t& text) override { return value("a string") && events_.string(text); }
    bool binary(binary_t& bytes) override { return value("bytes") && events_.binary(bytes); }
    bool start_object(std::size_t size) override { return descend() && events_.start_object(size); }
    bool key(string_t& text) override { return events_.key(text); }
    bool end_object() override {
        --depth_;
        return events_.end_object();
    }
    bool start_array(std::size_t size) override {
        return value("an array") && descend() && events_.start_array(size);
    }
    bool end_array() override {
        --depth_;
        return events_.end_array();
    }
    bool parse_error(std::size_t position, const std::string&, const Json::exception& error) override {
        // The parser's own message without its error number.
        const std::string_view message = error.what();
        const std::size_t end = message.find("] ");
        throw InvalidArgument(where_ + ": not valid JSON at byte " + std::to_string(position) + ": " +
                              printable(end == std::string_view::npos ? message : message.substr(end + 2)));
    }

  private:
    bool value(const char* kind) const {
        if (depth_ == 0) throw InvalidArgument(where_ + ": must be a JSON object, got " + kind);
        return true;
    }
    bool descend() {
        if (++depth_ <= kJsonDepthLimit) return true;
        throw InvalidArgument(where_ + ": nested deeper than " + std::to_string(kJsonDepthLimit) + " levels");
    }

    const std::string& where_;
    JsonEvents& events_;
    std::size_t depth_ = 0;
};

class Tree final : public JsonEvents {
  public:
    explicit Tree(const std::string& where) : where_(where) {}
    Json take() { return std::move(root_); }

    bool null() override { return add(nullptr); }
    bool boolean(bool x) override { return add(x); }
    bool number_integer(number_integer_t x) override { return add(x); }
    bool number_unsigned(number_unsigned_t x) override { return add(x); }
    bool number_float(number_float_t x, const string_t&) override { return add(x); }
    bool string(string_t& text) override { return add(std::move(text)); }
    bool start_object(std::size_t) override { return open(Json::object()); }
    bool start_array(std::size_t) override { return open(Json::array()); }
    bool key(string_t& text) override {
        key_ = std::move(text);
        return true;
    }
    bool end_object() override { return close(); }
    bool end_array() override { return close(); }

  private:
    bool add(Json value) {
        place(std::move(value));
        return true;
    }
    bool open(Json value) {
        open_.push_back(&place(std::move(value)));
        return true;
    }
    bool close() {
        open_.pop_back();
        return true;
    }
    Json& place(Json value) {
        if (++values_ > kJsonValueLimit) {
            throw InvalidArgument(where_ + ": holds more than " + std::to_string(kJsonValueLimit) +
                                  " values");
        }
        if (open_.empty()) return root_ = std::move(value);
        Json& parent = *open_.back();
        if (parent.is_array()) return parent.emplace_back(std::move(value));
        const auto [item, is_new] = parent.emplace(std::move(key_), std::move(value));
        if (!is_new) throw InvalidArgument(where_ + ": the key " + in_quotes(item.key()) + " appears twice");
        return *item;
    }

    const std::string& where_;
    Json root_;
    std::vector<Json*> open_;
    std::string key_;
    std::size_t values_ = 0;
};

constexpr auto kReplace = Json::error_handler_t::replace;
constexpr std::size_t kShown = 80;

// Stops when there is enough: a value may be as large as a file.
void append(const Json& value, std::string& out) {
    if (out.size() > kShown) return;
    if (!value.is_structured()) {
        out += value.is_string() ? Json(value.get_ref<const std::string&>().substr(0, kShown + 1))
                                       .dump(-1, ' ', false, kReplace)
                                 : value.dump();
        return;
    }
    const bool list = value.is_array();
    bool first = true;
    out += list ? '[' : '{';
    for (const auto& item : value.items()) {
        if (out.size() > kShown) break;
        if (!std::exchange(first, false)) out += ',';
        if (!list) out += Json(item.key().substr(0, kShown + 1)).dump(-1, ' ', false, kReplace) + ":";
        append(item.value(), out);
    }
    out += list ? ']' : '}';
}

// Raw control characters inside strings become \u00XX, which the parser accepts.
std::string escape_control_characters(std::string_view text) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    std::string escaped;
    escaped.reserve(text.size());
    bool in_string = false;
    bool after_backslash = false;
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (in_string && byte < 0x20 && !after_backslash) {
            escaped += "\\u00";
            escaped += kDigits[byte >> 4];
            escaped += kDigits[byte & 15];
            continue;
        }
        if (c == '"' && !after_backslash) in_string = !in_string;
        after_backslash = in_string && c == '\\' && !after_backslash;
        escaped += c;
    }
    return escaped;
}

class StringHandler final : public JsonEvents {
  public:
    explicit StringHandler(const std::string& where) : where_(where) {}
    std::vector<JsonString> take() { return std::move(strings_); }

    bool string(std::string& text) override {
        if (arrays_ != 0) return true;
        if (depth_ == 1) {
            strings_.push_back({false, "", key_, std::move(text)});
        } else if (depth_ == 2) {
            strings_.push_back({true, parent_, key_, std::move(text)});
        }
        return true;
    }
    bool start_object(std::size_t) override {
        if (depth_ == 1) {
            parent_ = key_;
            inner_keys_.clear();
        }
        ++depth_;
        return true;
    }
    bool start_array(std::size_t) override {
        ++arrays_;
        ++depth_;
        return true;
    }
    bool end_object() override {
        --depth_;
        return true;
    }
    bool end_array() override {
        --arrays_;
        return end_object();
    }
    bool key(std::string& text) override {
        if (arrays_ != 0 || depth_ > 2) return true;
        if (!(depth_ == 1 ? outer_keys_ : inner_keys_).insert(text).second) {
            throw InvalidArgument(where_ + ": the key " + in_quotes(text) + " appears twice");
        }
        key_ = std::move(text);
        return true;
    }

  private:
    const std::string& where_;
    std::size_t depth_ = 0;
    std::size_t arrays_ = 0;
    std::string parent_;
    std::string key_;
    std::unordered_set<std::string> outer_keys_;
    std::unordered_set<std::string> inner_keys_;
    std::vector<JsonString> strings_;
};

const nlohmann::json kNothing;

}  // namespace

void parse_json(std::string_view text, const std::string& where, JsonEvents& events) {
    if (text.size() > kJsonSizeLimit) {
        throw InvalidArgument(where + ": must be at most " + std::to_string(kJsonSizeLimit) + " bytes long");
    }
    Guard guard(where, events);
    Json::sax_parse(text.begin(), text.end(), &guard);
}

Json parse_json_object(std::string_view text, const std::string& where) {
    Tree tree(where);
    parse_json(text, where, tree);
    return tree.take();
}

std::string dump_json(const Json& value, int indent) {
    return value.dump(indent, ' ', false, kReplace);
}
std::string dump_json(const nlohmann::ordered_json& value, int indent) {
    return value.dump(indent, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::string show_json(const Json& value) {
    std::string shown;
    append(value, shown);
    return shown.size() <= kShown ? shown : printable(shown.substr(0, kShown)) + "...";
}

std::vector<JsonString> read_json_strings(std::string_view text, const std::string& where) {
    StringHandler handler(where);
    parse_json(escape_control_characters(text), where, handler);
    return handler.take();
}

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

std::string JsonNode::where() const {
    return place_.empty() ? source_->where : source_->where + ": " + printable(place_);
}

void JsonNode::fail(std::string_view wanted) const {
    throw InvalidArgument(fmt::format("{}: {} must be {}, got {}", source_->where,
                                      place_.empty() ? "it" : printable(place_), wanted,
                                      value_ == &kNothing ? "nothing" : show_json(*value_)));
}

}  // namespace aerogel
