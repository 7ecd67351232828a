// The caches, for measuring as if other work had run in between.
#pragma once

#include <cstdint>

namespace aerogel {

/// Bytes of the last-level cache; 64 MiB where the system does not say.
std::int64_t cache_bytes();

/// Reads twice that much with all threads of the pool, so that nothing else is left in it.
void empty_caches();

}  // namespace aerogel
