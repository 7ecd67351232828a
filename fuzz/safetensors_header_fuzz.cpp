// Any bytes as a safetensors file, as they are and with the length put right: either an InvalidArgument, or a
// header whose tensors lie in the file and which survives being written and read again.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include "aerogel/error.h"
#include "core/safetensors_header.h"

namespace {

using namespace aerogel;

void require(bool condition) {
    if (!condition) std::abort();
}

void check(const SafetensorsHeader& header, std::size_t file_size) {
    std::uint64_t total = 0;
    for (const SafetensorsEntry& entry : header.entries) {
        require(entry.begin <= entry.end && header.data_begin + entry.end <= file_size);
        const auto count = static_cast<std::uint64_t>(element_count(entry.info.shape));
        require(count * size_of(entry.info.dtype) == entry.end - entry.begin);
        total += entry.end - entry.begin;
    }
    require(header.data_begin + total == file_size);
    std::string again = encode_safetensors_header(header.entries, header.metadata);
    const std::size_t data_begin = again.size();
    again.resize(data_begin + static_cast<std::size_t>(total));
    const SafetensorsHeader second = parse_safetensors(std::as_bytes(std::span(again)), "again");
    require(second.data_begin == data_begin && second.metadata == header.metadata);
    require(second.entries.size() == header.entries.size());
    for (std::size_t i = 0; i < second.entries.size(); ++i) {
        const TensorInfo& a = header.entries[i].info;
        const TensorInfo& b = second.entries[i].info;
        require(a.name == b.name && a.dtype == b.dtype && a.shape == b.shape);
        require(header.entries[i].begin == second.entries[i].begin);
    }
}

void parse(std::span<const std::uint8_t> file) {
    try {
        check(parse_safetensors(std::as_bytes(file), "fuzz"), file.size());
    } catch (const InvalidArgument&) {
        return;
    }
}

// The same bytes with a length that fits their JSON, so that more than the length is tried.
std::vector<std::uint8_t> with_true_length(std::span<const std::uint8_t> file) {
    std::vector<std::uint8_t> bytes(file.begin(), file.end());
    const auto last_brace = std::find(bytes.rbegin(), bytes.rend(), std::uint8_t{'}'});
    if (bytes.size() < 8 || bytes.rend() - last_brace < 8) return bytes;
    const auto length = static_cast<std::uint64_t>(bytes.rend() - last_brace) - 8;
    for (unsigned i = 0; i < 8; ++i) bytes[i] = static_cast<std::uint8_t>(length >> (8 * i) & 0xFF);
    return bytes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::span file(data, size);
    parse(file);
    parse(with_true_length(file));
    return 0;
}
