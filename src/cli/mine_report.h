// The reports of `aerogel mine`: a summary as text or JSON, and a self-contained HTML page with pictures.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <string>
#include <vector>

#include "sparse/mining.h"

namespace aerogel::cli {

struct HeadPlace {
    int layer = 0;
    int head = 0;
    bool operator==(const HeadPlace&) const = default;
};

struct MineReport {
    std::string model;
    const AttentionMiner& miner;
    const SparseProfile& profile;

    const std::vector<ProfileSpan>& spans(HeadPlace place) const {
        return profile.layers[static_cast<std::size_t>(place.layer)][static_cast<std::size_t>(place.head)];
    }
};

/// The span that covers most steps: what a head is called in one word.
const ProfileSpan& longest(const std::vector<ProfileSpan>& spans);

/// Per layer and head: type, recall and the recall of every candidate; the number of heads of each type.
nlohmann::ordered_json to_json(const MineReport& report);
std::string to_text(const MineReport& report);
/// Heat maps of the typical heads with their mask drawn over them, head types by layer and step, and kept
/// attention against computed share. Pictures are embedded PNG, charts SVG; no scripts.
std::string to_html(const MineReport& report);

}  // namespace aerogel::cli
