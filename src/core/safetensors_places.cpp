// Where the tensors of a safetensors file go.
#include <algorithm>
#include <numeric>
#include <set>

#include "aerogel/error.h"
#include "core/safetensors_header.h"
#include "core/text.h"

namespace aerogel {

// Offsets by descending element size, then in the announced order: without padding, which the format
// forbids, this puts every element on its natural boundary. The reference implementation does the same.
std::vector<SafetensorsEntry> place_safetensors(const std::vector<TensorInfo>& tensors,
                                                const std::string& where) {
    std::vector<SafetensorsEntry> entries;
    std::set<std::string> names;
    for (const TensorInfo& info : tensors) {
        if (info.name == "__metadata__" || !names.insert(info.name).second) {
            throw InvalidArgument(where + ": the tensor name " + in_quotes(info.name) +
                                  (info.name == "__metadata__" ? " is reserved" : " is announced twice"));
        }
        entries.push_back({info, 0, 0});
    }
    std::vector<std::size_t> order(entries.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        return size_of(entries[a].info.dtype) > size_of(entries[b].info.dtype);
    });
    std::uint64_t end = 0;
    for (const std::size_t i : order) {
        SafetensorsEntry& entry = entries[i];
        std::uint64_t bytes = 0;
        entry.begin = end;
        if (__builtin_mul_overflow(static_cast<std::uint64_t>(element_count(entry.info.shape)),
                                   size_of(entry.info.dtype), &bytes) ||
            __builtin_add_overflow(end, bytes, &end)) {
            throw InvalidArgument(where + ": tensor " + in_quotes(entry.info.name) +
                                  " is too large: " + to_string(entry.info.shape));
        }
        entry.end = end;
    }
    return entries;
}

std::uint64_t data_size(const std::vector<SafetensorsEntry>& entries) {
    std::uint64_t size = 0;
    for (const SafetensorsEntry& entry : entries) size = std::max(size, entry.end);
    return size;
}

}  // namespace aerogel
