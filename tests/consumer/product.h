// Another source of the program, which sees the same headers.
#pragma once

#include <string>

#include "aerogel/tensor.h"

/// 1 * 2 + 1, computed by the library.
float product();
/// What the library says of a wrong shape, caught as its own error.
std::string refusal();
