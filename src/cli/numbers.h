// What numbers on the command line may be; everything else is refused before any work starts.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>

namespace aerogel::cli {

constexpr std::int64_t kMostSteps = 1000;

/// A whole number from `least` to `most`.
CLI::Validator whole_number(std::int64_t least, std::int64_t most);
/// A finite number from `least` to `most`.
CLI::Validator real_number(double least, double most);
/// A finite number.
CLI::Validator any_real_number();
/// A whole number from 0 to 2^64 - 1.
CLI::Validator seed_number();

}  // namespace aerogel::cli
