// Bytes as a file, for readers that open files themselves: in memory where the system allows it.
#pragma once

#include <stdlib.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>

namespace aerogel {

/// A folder of this process, removed at its end.
inline const std::filesystem::path& fuzz_folder() {
    struct Folder {
        Folder() {
            const bool memory = ::access("/dev/shm", W_OK) == 0;
            std::string pattern =
                (memory ? std::filesystem::path("/dev/shm") : std::filesystem::temp_directory_path()) /
                "aerogel_fuzz_XXXXXX";
            if (::mkdtemp(pattern.data()) == nullptr) std::abort();
            path = pattern;
        }
        ~Folder() {
            std::error_code ignored;
            std::filesystem::remove_all(path, ignored);
        }
        std::filesystem::path path;
    };
    static const Folder folder;
    return folder.path;
}

inline std::filesystem::path fuzz_file(const std::string& name, std::span<const std::uint8_t> bytes) {
    const std::filesystem::path path = fuzz_folder() / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return path;
}

}  // namespace aerogel
