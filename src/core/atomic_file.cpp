// The temporary name and the order of the last steps.
#include "core/atomic_file.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <climits>
#include <string>
#include <system_error>
#include <utility>

#include "aerogel/error.h"

namespace aerogel {
namespace {

// Memory of its own, so that a signal handler reads no string that somebody is freeing.
struct Place {
    std::atomic<bool> taken{false};
    std::atomic<bool> set{false};
    std::array<char, PATH_MAX> path{};
};
std::array<Place, 16> places;

}  // namespace

void TemporaryName::set(const std::filesystem::path& path) {
    const std::string absolute = std::filesystem::absolute(path).string();
    if (absolute.size() >= PATH_MAX) return;
    for (std::size_t i = 0; i < places.size(); ++i) {
        Place& place = places.at(i);
        if (place.taken.exchange(true)) continue;
        std::copy_n(absolute.c_str(), absolute.size() + 1, place.path.begin());
        place.set = true;
        place_ = static_cast<int>(i);
        return;
    }
}

void TemporaryName::clear() {
    if (place_ < 0) return;
    Place& place = places.at(static_cast<std::size_t>(std::exchange(place_, -1)));
    place.set = false;
    place.taken = false;
}

void remove_temporary_files() noexcept {
    for (const Place& place : places) {
        if (place.set) ::unlink(place.path.data());
    }
}

void check_file_name(const std::filesystem::path& path) {
    if (!path.has_filename()) throw IoError("[write] '" + path.string() + "' is not a file name");
    if (std::error_code ignored; std::filesystem::is_directory(path, ignored)) {
        throw IoError("[write] " + path.string() + ": cannot create: Is a directory");
    }
}

AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
    check_file_name(path_);
    temporary_ = path_;
    temporary_ += ".tmp." + std::to_string(::getpid());
    name_.set(temporary_);
    file_.emplace(temporary_, path_, OutputFile::Content::none);
}

AtomicFile::~AtomicFile() {
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::reserve(std::uint64_t size) {
    file_->reserve(size);
}

void AtomicFile::write_at(std::uint64_t offset, const void* data, std::size_t size) {
    file_->write_at(offset, data, size);
    end_ = std::max(end_, offset + size);
}

void AtomicFile::write(std::string_view text) {
    write_at(end_, text.data(), text.size());
}

void AtomicFile::commit() {
    file_->close_synced();
    rename_synced(temporary_, path_);
    name_.clear();
    temporary_.clear();
}

void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
    AtomicFile file(path);
    file.write(text);
    file.commit();
}

}  // namespace aerogel
