// Arrays of a kernel's call copied to the device, which is the emulator's: the driver that the environment of
// these tests names.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "core/device_memory.h"
#include "kernels/cuda/list.h"

namespace aerogel::testing {

/// Lives as long as its copies are used.
class DeviceArrays {
  public:
    DeviceArrays() = default;
    DeviceArrays(const DeviceArrays&) = delete;
    DeviceArrays& operator=(const DeviceArrays&) = delete;
    ~DeviceArrays() {
        for (const Block& block : blocks_) memory().free(Device::cuda, block.data, block.bytes);
    }

    /// So many bytes of anything; null for none.
    void* room(std::size_t bytes) {
        if (bytes == 0) return nullptr;
        blocks_.push_back({memory().allocate(Device::cuda, bytes), bytes});
        return blocks_.back().data;
    }
    template <typename T>
    T* copy(const T* from, std::size_t count) {
        if (from == nullptr) return nullptr;
        void* to = room(count * sizeof(T));
        if (to != nullptr) memory().from_host(Device::cuda, to, from, count * sizeof(T));
        return static_cast<T*>(to);
    }
    /// Orders of so many maps, or null.
    const std::int32_t* const* orders(const std::int32_t* const* from, std::int64_t maps,
                                      std::int64_t tokens) {
        if (from == nullptr) return nullptr;
        std::vector<const std::int32_t*> places;
        for (std::int64_t map = 0; map < maps; ++map)
            places.push_back(copy(from[map], static_cast<std::size_t>(tokens)));
        return copy(places.data(), places.size());
    }
    static const DeviceMemory& memory() { return memory_of(Device::cuda); }

  private:
    struct Block {
        void* data;
        std::size_t bytes;
    };
    std::vector<Block> blocks_;
};

/// For as long as it lives: how asynchronous copies land, and the order of blocks and warps.
class EmulatorMood {
  public:
    EmulatorMood(bool late, int seed) {
        ::setenv("AEROGEL_FAKE_COPIES", late ? "late" : "early", 1);
        ::setenv("AEROGEL_FAKE_SEED", std::to_string(seed).c_str(), 1);
    }
    ~EmulatorMood() {
        ::unsetenv("AEROGEL_FAKE_COPIES");
        ::unsetenv("AEROGEL_FAKE_SEED");
    }
    EmulatorMood(const EmulatorMood&) = delete;
    EmulatorMood& operator=(const EmulatorMood&) = delete;
};

/// What the launches during its life did.
class LaunchReport {
  public:
    LaunchReport() {
        std::ofstream(path_, std::ios::trunc);
        ::setenv("AEROGEL_FAKE_REPORT", path_.c_str(), 1);
    }
    ~LaunchReport() {
        ::unsetenv("AEROGEL_FAKE_REPORT");
        std::remove(path_.c_str());
    }
    LaunchReport(const LaunchReport&) = delete;
    LaunchReport& operator=(const LaunchReport&) = delete;

    /// Lines of launches for which the number behind this word is not zero.
    std::string lines_with(const std::string& word) const {
        std::ifstream file(path_);
        std::string found;
        for (std::string line; std::getline(file, line);) {
            std::istringstream words(line);
            for (std::string name; words >> name;)
                if (long count = 0; name == word && words >> count && count != 0) found += line + "\n";
        }
        return found;
    }

  private:
    std::string path_ = ::testing::TempDir() + "launches_" + std::to_string(::getpid());
};

}  // namespace aerogel::testing
