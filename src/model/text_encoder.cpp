// TextEncoder: captions of a small vocabulary to learned embeddings.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <set>

#include "aerogel/error.h"
#include "aerogel/pipeline.h"
#include "aerogel/safetensors.h"
#include "model/json_file.h"

namespace aerogel {
namespace {

using Json = nlohmann::json;
using Slots = std::vector<std::vector<std::int64_t>>;

std::int64_t read_count(const Json& json, const char* key, const std::filesystem::path& path) {
    constexpr std::int64_t kMost = 1 << 16;
    const auto entry = json.find(key);
    const Json value = entry == json.end() ? Json() : *entry;
    if (!value.is_number_integer() || value < 1 || value > kMost) {
        wrong_json_value("text encoder", path, key, "a whole number from 1 to 65536", value);
    }
    return value.get<std::int64_t>();
}

std::vector<std::string> read_words(const Json& json, const std::filesystem::path& path) {
    const auto entry = json.find("words");
    const Json value = entry == json.end() ? Json() : *entry;
    const bool fits =
        value.is_array() && !value.empty() &&
        std::all_of(value.begin(), value.end(), [](const Json& word) { return word.is_string(); });
    if (!fits) wrong_json_value("text encoder", path, "words", "a list of strings", value);
    auto words = value.get<std::vector<std::string>>();
    if (std::set<std::string>(words.begin(), words.end()).size() != words.size()) {
        wrong_json_value("text encoder", path, "words", "free of repetitions", value);
    }
    return words;
}

// The lists of slots of an object that are summed up, each to one embedding.
Slots read_groups(const Json& json, const std::filesystem::path& path, std::int64_t slots_per_object) {
    const Json& value = json["groups"];
    const auto is_slot = [&](const Json& slot) {
        return slot.is_number_integer() && slot >= 0 && slot < slots_per_object;
    };
    const auto is_group = [&](const Json& group) {
        return group.is_array() && !group.empty() && std::all_of(group.begin(), group.end(), is_slot);
    };
    if (!value.is_array() || value.empty() || !std::all_of(value.begin(), value.end(), is_group)) {
        wrong_json_value("text encoder", path, "groups", "lists of slots below slots_per_object", value);
    }
    return value.get<Slots>();
}

// The slots of each embedding of a caption: every slot alone.
Slots single_slots(std::int64_t max_length) {
    Slots sums;
    for (std::int64_t slot = 0; slot < max_length; ++slot) sums.push_back({slot});
    return sums;
}

// The same where the slots of each object are summed in groups.
Slots repeated_groups(const Slots& groups, std::int64_t slots_per_object, std::size_t objects) {
    Slots sums;
    for (std::size_t object = 0; object < objects; ++object) {
        for (std::vector<std::int64_t> slots : groups) {
            for (std::int64_t& slot : slots) slot += static_cast<std::int64_t>(object) * slots_per_object;
            sums.push_back(std::move(slots));
        }
    }
    return sums;
}

Tensor read_table(const SafetensorsFile& file, const std::string& name, std::int64_t rows) {
    const TensorInfo& info = file.info(name);
    if (info.shape.size() != 2 || info.shape[0] != rows || info.shape[1] < 1) {
        throw InvalidArgument(fmt::format("[text encoder] {}: {} must be [{},text_dim], got {}{}",
                                          file.path().string(), name, rows, to_string(info.dtype),
                                          to_string(info.shape)));
    }
    return file.tensor(name).to(DType::f32);
}

std::vector<std::string> split_words(const std::string& text) {
    std::vector<std::string> words(1);
    for (const char c : text) {
        if (std::isspace(static_cast<unsigned char>(c)) == 0) {
            words.back() += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
        } else if (!words.back().empty()) {
            words.emplace_back();
        }
    }
    if (words.back().empty()) words.pop_back();
    return words;
}

// The words of each object; none at all for a blank caption.
std::vector<std::vector<std::string>> split_objects(const std::string& caption) {
    std::vector<std::vector<std::string>> objects;
    if (split_words(caption).empty()) return objects;
    std::size_t start = 0;
    while (true) {
        const std::size_t comma = caption.find(',', start);
        objects.push_back(split_words(caption.substr(start, comma - start)));
        if (objects.back().empty()) {
            throw InvalidArgument(
                fmt::format("[caption] an object between commas is empty in '{}'", caption));
        }
        if (comma == std::string::npos) return objects;
        start = comma + 1;
    }
}

}  // namespace

TextEncoder TextEncoder::load(const std::filesystem::path& folder) {
    const auto path = folder / "vocabulary.json";
    const Json json = read_json_object(path);
    TextEncoder encoder;
    encoder.words_ = read_words(json, path);
    encoder.max_length_ = read_count(json, "max_length", path);
    encoder.slots_per_object_ = read_count(json, "slots_per_object", path);
    encoder.max_objects_ = static_cast<std::size_t>(read_count(json, "max_objects", path));
    if (encoder.slots_per_object_ * static_cast<std::int64_t>(encoder.max_objects_) > encoder.max_length_) {
        wrong_json_value("text encoder", path, "max_length", "at least slots_per_object * max_objects",
                         json["max_length"]);
    }
    encoder.sums_ = json.contains("groups")
                        ? repeated_groups(read_groups(json, path, encoder.slots_per_object_),
                                          encoder.slots_per_object_, encoder.max_objects_)
                        : single_slots(encoder.max_length_);
    const auto pad = json.contains("pad") ? json["pad"] : Json();
    const auto found = std::find(encoder.words_.begin(), encoder.words_.end(), pad);
    if (found == encoder.words_.end()) wrong_json_value("text encoder", path, "pad", "one of the words", pad);
    encoder.pad_ = found - encoder.words_.begin();

    const auto file = SafetensorsFile::open(folder / "model.safetensors");
    const auto word_count = static_cast<std::int64_t>(encoder.words_.size());
    encoder.word_embedding_ = read_table(file, "word_embedding.weight", word_count);
    encoder.position_embedding_ = read_table(file, "position_embedding.weight", encoder.max_length_);
    if (encoder.word_embedding_.dim(1) != encoder.position_embedding_.dim(1)) {
        throw InvalidArgument(fmt::format("[text encoder] {}: the tables must have one width, got {} and {}",
                                          file.path().string(), encoder.word_embedding_.describe(),
                                          encoder.position_embedding_.describe()));
    }
    return encoder;
}

Tensor TextEncoder::encode(const std::string& caption) const {
    const auto objects = split_objects(caption);
    if (objects.size() > max_objects_) {
        throw InvalidArgument(fmt::format("[caption] at most {} objects separated by commas, got {} in '{}'",
                                          max_objects_, objects.size(), caption));
    }
    std::vector<std::int64_t> ids(static_cast<std::size_t>(max_length_), pad_);
    for (std::size_t i = 0; i < objects.size(); ++i) {
        if (objects[i].size() > static_cast<std::size_t>(slots_per_object_)) {
            throw InvalidArgument(fmt::format("[caption] at most {} words per object, got {} in '{}'",
                                              slots_per_object_, objects[i].size(), caption));
        }
        for (std::size_t j = 0; j < objects[i].size(); ++j) {
            const auto found = std::find(words_.begin(), words_.end(), objects[i][j]);
            if (found == words_.end() || found - words_.begin() == pad_) {
                std::vector<std::string> known = words_;
                known.erase(known.begin() + pad_);
                throw InvalidArgument(fmt::format("[caption] unknown word '{}' in '{}'; known words: {}",
                                                  objects[i][j], caption, fmt::join(known, " ")));
            }
            ids[i * static_cast<std::size_t>(slots_per_object_) + j] = found - words_.begin();
        }
    }
    const std::int64_t dim = word_embedding_.dim(1);
    Tensor embeddings = Tensor::zeros(DType::f32, {1, static_cast<std::int64_t>(sums_.size()), dim});
    float* to = embeddings.as<float>();
    for (const auto& slots : sums_) {
        for (const std::int64_t slot : slots) {
            const float* word = word_embedding_.as<float>() + ids[static_cast<std::size_t>(slot)] * dim;
            const float* position = position_embedding_.as<float>() + slot * dim;
            for (std::int64_t d = 0; d < dim; ++d) to[d] += word[d] + position[d];
        }
        to += dim;
    }
    return embeddings;
}

}  // namespace aerogel
