// Loads and stores that the compiler tells (instrumentation.cpp), and where in the source an instruction is.
#pragma once

#include <string>

#include "emulator/lane.h"

namespace aerogel::emulator {

/// Of a thread, not to its own stack.
void instrumented(const void* p, int bytes, bool writes, const void* instruction);

/// "w8a8.cuh:120" of an instruction where addr2line finds it, else "NAME+0x1234".
std::string line_of(const void* instruction);

}  // namespace aerogel::emulator
