// The HTML page of `aerogel mine`: pictures as embedded PNG, charts as SVG, no script.
#pragma once

#include <string>
#include <vector>

#include "cli/mine_report.h"

namespace aerogel::cli {

/// `typical`: the heads whose attention maps are shown.
std::string mine_page(const MineReport& report, const std::vector<HeadPlace>& typical);

}  // namespace aerogel::cli
