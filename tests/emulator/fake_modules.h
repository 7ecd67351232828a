// Machine code of the fake GPU: the fat binary is real and is asked for its targets; what runs is the
// function of the same name in this library, compiled for the emulator.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "emulator/emulator.h"

namespace aerogel::emulator {

/// The targets of a fat binary or cubin: 80, 90 ...; empty if it is neither.
std::vector<int> targets_of(const void* image);

/// Code for one of the targets runs on that GPU: the same major number, and no later.
bool runs_on(const std::vector<int>& targets, int sm);

/// The kernel's function in this library, null if there is none.
void* find_kernel(const char* name);

/// The most bytes of arguments; fewer than 17 would be passed in registers.
constexpr std::size_t kLeastArgs = 17, kMostArgs = 4096;

/// Runs a __global__ function whose one argument is a struct of that many bytes.
Report call_kernel(void* function, const std::vector<unsigned char>& arguments, const Shape& shape,
                   const Options& options);

}  // namespace aerogel::emulator
