// Limits in front of nlohmann's parser, which itself keeps its state on the heap; trees are shallow then, so
// that copying, printing and freeing them is safe too.
#include "core/json.h"

#include <utility>
#include <vector>

#include "aerogel/error.h"
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

}  // namespace aerogel
