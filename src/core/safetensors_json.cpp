// A SAX handler for safetensors headers. A tree would lose duplicate keys and could be made huge.
#include "core/safetensors_json.h"

#include <limits>
#include <unordered_set>
#include <utility>

#include "aerogel/error.h"
#include "core/json.h"
#include "core/text.h"

namespace aerogel {
namespace {

constexpr const char* kMetadata = "__metadata__";

class HeaderHandler final : public JsonEvents {
  public:
    HeaderHandler(const std::string& where, SafetensorsHeader& header) : where_(where), header_(header) {}

    bool null() override { return other("null"); }
    bool boolean(bool) override { return other("a boolean"); }
    bool number_integer(std::int64_t value) override {
        return other("the negative number " + std::to_string(value));
    }
    bool number_float(double, const std::string& text) override {
        return other("the number " + printable(text));
    }

    bool number_unsigned(std::uint64_t value) override {
        if (place_ != Place::shape && place_ != Place::offsets) return other(std::to_string(value));
        numbers_.push_back(value);
        if (numbers_.size() > kMostNumbers) fail("more than 64 numbers in " + field());
        return true;
    }

    bool string(std::string& text) override {
        if (place_ == Place::metadata) {
            header_.metadata.emplace(key_, std::move(text));
        } else if (place_ == Place::tensor && key_ == "dtype") {
            entry_.info.dtype = safetensors_dtype(text, at());
        } else {
            return other("the string " + in_quotes(text));
        }
        return true;
    }

    bool start_object(std::size_t) override {
        switch (place_) {
            case Place::outside:
                place_ = Place::top;
                return true;
            case Place::top:
                keys_.clear();
                if (name_ == kMetadata) {
                    place_ = Place::metadata;
                } else {
                    place_ = Place::tensor;
                    entry_ = {};
                    entry_.info.name = name_;
                }
                return true;
            default:
                return other("an object");
        }
    }

    bool end_object() override {
        if (place_ == Place::tensor) {
            for (const char* needed : {"dtype", "shape", "data_offsets"}) {
                if (keys_.count(needed) == 0) fail(std::string("has no ") + needed);
            }
            header_.entries.push_back(std::move(entry_));
        }
        place_ = place_ == Place::top ? Place::outside : Place::top;
        return true;
    }

    bool start_array(std::size_t) override {
        const bool expected = place_ == Place::tensor && (key_ == "shape" || key_ == "data_offsets");
        if (!expected) return other("an array");
        numbers_.clear();
        place_ = key_ == "shape" ? Place::shape : Place::offsets;
        return true;
    }

    bool end_array() override {
        if (place_ == Place::shape) {
            for (const std::uint64_t size : numbers_) {
                if (size > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
                    fail("shape holds " + std::to_string(size) + ", more than 2^63 - 1");
                entry_.info.shape.push_back(static_cast<std::int64_t>(size));
            }
        } else {
            if (numbers_.size() != 2)
                fail("data_offsets must hold 2 numbers, got " + std::to_string(numbers_.size()));
            entry_.begin = numbers_[0];
            entry_.end = numbers_[1];
        }
        place_ = Place::tensor;
        return true;
    }

    bool key(std::string& text) override {
        if (place_ == Place::top) {
            name_ = text;
            if (!names_.insert(text).second)
                throw InvalidArgument(where_ + ": the name " + in_quotes(text) + " appears twice");
            return true;
        }
        if (!keys_.insert(text).second) fail("the key " + in_quotes(text) + " appears twice");
        if (place_ == Place::tensor && text != "dtype" && text != "shape" && text != "data_offsets")
            fail("unknown key " + in_quotes(text) + ", expected dtype, shape and data_offsets");
        key_ = std::move(text);
        return true;
    }

  private:
    // Where the walk is; there is no deeper place, so nesting is bounded by this list.
    enum class Place { outside, top, metadata, tensor, shape, offsets };
    static constexpr std::size_t kMostNumbers = 64;

    std::string at() const {
        return where_ + ": " + (name_ == kMetadata ? "" : "tensor ") + in_quotes(name_);
    }
    [[noreturn]] void fail(const std::string& what) const { throw InvalidArgument(at() + ": " + what); }
    std::string field() const { return place_ == Place::shape ? "shape" : "data_offsets"; }

    // A value of a kind that this place does not take.
    bool other(const std::string& got) const {
        switch (place_) {
            case Place::outside:
            case Place::top:
                fail("must be an object, got " + got);
            case Place::metadata:
                throw InvalidArgument(where_ + ": __metadata__ must hold strings, got " + got + " under " +
                                      in_quotes(key_));
            case Place::tensor:
                fail(key_ + " must be " + (key_ == "dtype" ? "a string" : "an array of numbers >= 0") +
                     ", got " + got);
            case Place::shape:
            case Place::offsets:
                fail(field() + " must hold whole numbers >= 0 and < 2^64, got " + got);
        }
        return false;
    }

    const std::string& where_;
    SafetensorsHeader& header_;
    Place place_ = Place::outside;
    std::string name_;
    std::string key_;
    SafetensorsEntry entry_;
    std::vector<std::uint64_t> numbers_;
    std::unordered_set<std::string> names_;
    std::unordered_set<std::string> keys_;
};

}  // namespace

void parse_safetensors_json(std::string_view json, const std::string& where, SafetensorsHeader& header) {
    HeaderHandler handler(where, header);
    parse_json(json, where + ": the header", handler);
}

}  // namespace aerogel
