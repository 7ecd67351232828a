// Profiles as JSON files: written exactly, read with an error for every key that is not what it should be.
#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "aerogel/error.h"
#include "aerogel/sparse_profile.h"
#include "core/atomic_file.h"
#include "core/text.h"

namespace aerogel {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kVersionKey = "aerogel_sparse_profile";
constexpr int kVersion = 1;

class Reader {
  public:
    explicit Reader(const std::filesystem::path& path) : path_(path) {
        constexpr std::size_t kLimit = 100'000'000;
        json_ =
            Json::parse(read_text_file(path, "sparse_profile", kLimit), nullptr, /*allow_exceptions=*/false);
        if (!json_.is_object() || !json_.contains(kVersionKey))
            fail(kVersionKey, fmt::format("{}, the mark of a profile made by aerogel mine", kVersion),
                 "none");
        if (json_[kVersionKey] != kVersion)
            fail(kVersionKey, fmt::format("{}", kVersion), json_[kVersionKey].dump());
    }

    SparseProfile profile() const {
        SparseProfile profile;
        const Json& latent = entry("latent_shape");
        if (!latent.is_array() || latent.size() != 3)
            fail("latent_shape", "[frames, height, width]", latent.dump());
        profile.latent_shape = {whole(latent[0], "latent_shape", 1), whole(latent[1], "latent_shape", 1),
                                whole(latent[2], "latent_shape", 1)};
        profile.block_size = whole(entry("block_size"), "block_size", 1);
        profile.sparsity = share(entry("sparsity"), "sparsity");
        const Json& protect = entry("protect_first_frame");
        if (!protect.is_boolean()) fail("protect_first_frame", "true or false", protect.dump());
        profile.protect_first_frame = protect.get<bool>();
        profile.steps = static_cast<int>(whole(entry("steps"), "steps", 1));
        const Json& layers = entry("layers");
        if (!layers.is_array() || layers.empty()) fail("layers", "an array of layers", layers.dump());
        for (const Json& layer : layers) {
            if (!layer.is_array() || layer.empty()) fail("layers", "arrays of heads", layer.dump());
            auto& heads = profile.layers.emplace_back();
            for (const Json& head : layer) heads.push_back(spans(head, profile.steps));
        }
        return profile;
    }

  private:
    [[noreturn]] void fail(std::string_view key, std::string_view wanted, const std::string& got) const {
        constexpr std::size_t kShown = 80;
        throw InvalidArgument(fmt::format("[sparse_profile] {}: {} must be {}, got {}", path_.string(), key,
                                          wanted, printable(got.substr(0, kShown))));
    }

    const Json& entry(const char* key) const {
        const auto found = json_.find(key);
        if (found == json_.end()) fail(key, "there", "none");
        return *found;
    }

    std::int64_t whole(const Json& value, const char* key, std::int64_t least) const {
        constexpr std::int64_t kMost = 1'000'000'000;
        if (!value.is_number_integer() || value < least || value > kMost)
            fail(key, fmt::format("a whole number from {} on", least), value.dump());
        return value.get<std::int64_t>();
    }

    double share(const Json& value, const char* key) const {
        if (!value.is_number() || value < 0.0 || value > 1.0) fail(key, "a number from 0 to 1", value.dump());
        return value.get<double>();
    }

    HeadType type(const Json& value) const {
        for (const HeadType type :
             {HeadType::dense, HeadType::spatial, HeadType::temporal, HeadType::textural}) {
            if (value == to_string(type)) return type;
        }
        fail("layers", "of head types dense, spatial, temporal, textural", value.dump());
    }

    // The spans of one head, which follow each other without gaps from 0 to `steps`.
    std::vector<ProfileSpan> spans(const Json& head, int steps) const {
        if (!head.is_array() || head.empty()) fail("layers", "of heads with spans", head.dump());
        std::vector<ProfileSpan> spans;
        int next = 0;
        for (const Json& span : head) {
            if (!span.is_array() || span.size() != 4 || span[0] != next)
                fail("layers", fmt::format("of spans [{}, end_step, type, recall]", next), span.dump());
            const auto end = static_cast<int>(whole(span[1], "layers (end_step)", next + 1));
            spans.push_back({next, end, type(span[2]), share(span[3], "layers (recall)")});
            next = end;
        }
        if (next != steps) fail("layers", fmt::format("of spans that end at step {}", steps), head.dump());
        return spans;
    }

    const std::filesystem::path& path_;
    Json json_;
};

// One line per layer: a person can look through the file.
std::string layer_line(const std::vector<std::vector<ProfileSpan>>& heads) {
    Json line = Json::array();
    for (const auto& head : heads) {
        Json spans = Json::array();
        for (const ProfileSpan& span : head)
            spans.push_back(
                {span.first_step, span.end_step, to_string(span.type), std::round(span.recall * 1e4) / 1e4});
        line.push_back(std::move(spans));
    }
    return line.dump();
}

}  // namespace

SparseProfile SparseProfile::read(const std::filesystem::path& path) {
    return Reader(path).profile();
}

void SparseProfile::write(const std::filesystem::path& path) const {
    const Json head = {{kVersionKey, kVersion},
                       {"latent_shape", {latent_shape.frames, latent_shape.height, latent_shape.width}},
                       {"block_size", block_size},
                       {"sparsity", sparsity},
                       {"protect_first_frame", protect_first_frame},
                       {"steps", steps}};
    std::string text = "{\n";
    for (const auto& [key, value] : head.items()) text += fmt::format(" \"{}\": {},\n", key, value.dump());
    text += " \"layers\": [\n";
    for (std::size_t i = 0; i < layers.size(); ++i)
        text += fmt::format("  {}{}\n", layer_line(layers[i]), i + 1 < layers.size() ? "," : "");
    write_file_atomically(path, text + " ]\n}\n");
}

std::vector<HeadType> SparseProfile::head_types(int layer, int step) const {
    if (layer < 0 || static_cast<std::size_t>(layer) >= layers.size()) {
        throw InvalidArgument(fmt::format("[sparse_profile] the profile has {} layers, asked for layer {}",
                                          layers.size(), layer));
    }
    std::vector<HeadType> types;
    for (const auto& spans : layers[static_cast<std::size_t>(layer)]) {
        const ProfileSpan* found = &spans.front();
        for (const ProfileSpan& span : spans) {
            if (span.first_step <= step) found = &span;
        }
        types.push_back(found->type);
    }
    return types;
}

}  // namespace aerogel
