// Words and slots of a caption, and the sums of their rows.
#include "model/text/caption_table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <string_view>

#include "aerogel/error.h"
#include "aerogel/safetensors.h"
#include "core/json.h"
#include "core/text.h"

namespace aerogel {
namespace {

using Slots = std::vector<std::vector<std::int64_t>>;

constexpr Bounds kCounts = {1, 1 << 16};
constexpr std::size_t kMostSlots = std::size_t{1} << 20;  // summed up in the embeddings of a caption

std::vector<std::string> read_words(const JsonNode& json) {
    const JsonNode list = json.at("words");
    std::vector<std::string> words;
    for (const JsonNode& word : list.items("a list of strings")) words.push_back(word.text());
    if (words.empty()) list.fail("a list of strings");
    if (std::set<std::string>(words.begin(), words.end()).size() != words.size()) {
        list.fail("free of repetitions");
    }
    return words;
}

// The lists of slots of an object that are summed up, each to one embedding.
Slots read_groups(const JsonNode& list, std::int64_t slots_per_object, std::size_t objects) {
    constexpr const char* kWanted = "lists of slots below slots_per_object";
    constexpr const char* kGroup = "a list of slots below slots_per_object";
    Slots groups;
    std::size_t slots = 0;
    for (const JsonNode& group : list.items(kWanted)) {
        auto& own = groups.emplace_back();
        for (const JsonNode& slot : group.items(kGroup)) own.push_back(slot.whole({0, slots_per_object - 1}));
        if (own.empty()) group.fail(kGroup);
        slots += own.size();
    }
    if (groups.empty()) list.fail(kWanted);
    if (slots > kMostSlots / objects) {
        list.fail(fmt::format("at most {} slots, max_objects times", kMostSlots));
    }
    return groups;
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
    constexpr std::string_view kSpaces = " \t\n\v\f\r";
    std::vector<std::string> words(1);
    for (const char c : lower_case(text)) {
        if (kSpaces.find(c) == kSpaces.npos) {
            words.back() += c;
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
                fmt::format("[caption] an object between commas is empty in {}", in_quotes(caption)));
        }
        if (comma == std::string::npos) return objects;
        start = comma + 1;
    }
}

}  // namespace

CaptionTable CaptionTable::load(const std::filesystem::path& folder) {
    const JsonNode json = JsonNode::read(folder / "vocabulary.json", "text encoder");
    CaptionTable table;
    table.words_ = read_words(json);
    table.max_length_ = json.at("max_length").whole(kCounts);
    table.slots_per_object_ = json.at("slots_per_object").whole(kCounts);
    table.max_objects_ = static_cast<std::size_t>(json.at("max_objects").whole(kCounts));
    if (table.slots_per_object_ * static_cast<std::int64_t>(table.max_objects_) > table.max_length_) {
        json.at("max_length").fail("at least slots_per_object * max_objects");
    }
    table.sums_ =
        json.contains("groups")
            ? repeated_groups(read_groups(json.at("groups"), table.slots_per_object_, table.max_objects_),
                              table.slots_per_object_, table.max_objects_)
            : single_slots(table.max_length_);
    const JsonNode pad = json.at("pad");
    const auto found = std::find(table.words_.begin(), table.words_.end(), pad.text());
    if (found == table.words_.end()) pad.fail("one of the words");
    table.pad_ = found - table.words_.begin();

    const auto file = SafetensorsFile::open(folder / "model.safetensors");
    const auto word_count = static_cast<std::int64_t>(table.words_.size());
    table.word_embedding_ = read_table(file, "word_embedding.weight", word_count);
    table.position_embedding_ = read_table(file, "position_embedding.weight", table.max_length_);
    file.check_intact();
    if (table.word_embedding_.dim(1) != table.position_embedding_.dim(1)) {
        throw InvalidArgument(fmt::format("[text encoder] {}: the tables must have one width, got {} and {}",
                                          file.path().string(), table.word_embedding_.describe(),
                                          table.position_embedding_.describe()));
    }
    return table;
}

Tensor CaptionTable::encode(const std::string& caption) const {
    const auto objects = split_objects(caption);
    if (objects.size() > max_objects_) {
        throw InvalidArgument(fmt::format("[caption] at most {} objects separated by commas, got {} in {}",
                                          max_objects_, objects.size(), in_quotes(caption)));
    }
    std::vector<std::int64_t> ids(static_cast<std::size_t>(max_length_), pad_);
    for (std::size_t i = 0; i < objects.size(); ++i) {
        if (objects[i].size() > static_cast<std::size_t>(slots_per_object_)) {
            throw InvalidArgument(fmt::format("[caption] at most {} words per object, got {} in {}",
                                              slots_per_object_, objects[i].size(), in_quotes(caption)));
        }
        for (std::size_t j = 0; j < objects[i].size(); ++j) {
            const auto found = std::find(words_.begin(), words_.end(), objects[i][j]);
            if (found == words_.end() || found - words_.begin() == pad_) {
                std::vector<std::string> known = words_;
                known.erase(known.begin() + pad_);
                throw InvalidArgument(fmt::format("[caption] unknown word {} in {}; known words: {}",
                                                  in_quotes(objects[i][j]), in_quotes(caption),
                                                  fmt::join(known, " ")));
            }
            ids[i * static_cast<std::size_t>(slots_per_object_) + j] = found - words_.begin();
        }
    }
    const std::int64_t dim = word_embedding_.dim(1);
    Tensor embeddings = Tensor::zeros(DType::f32, {1, static_cast<std::int64_t>(sums_.size()), dim});
    float* to = embeddings.mutable_as<float>();
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
