// The temporary name and the order of the last steps.
#include "core/atomic_file.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <string>
#include <system_error>
#include <utility>

#include "aerogel/error.h"
#include "core/paths.h"

namespace aerogel {
namespace fs = std::filesystem;
namespace {

// Memory of its own, so that a signal handler reads no string that somebody is freeing.
struct Place {
    std::atomic<bool> taken{false};
    std::atomic<bool> set{false};
    std::array<char, PATH_MAX> path{};
};
std::array<Place, 16> places;

}  // namespace

void TemporaryName::set(const fs::path& path) {
    std::error_code error;
    const std::string absolute = fs::absolute(path, error).string();
    if (error || absolute.size() >= PATH_MAX) return;
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

namespace {

constexpr int kMostWriters = 1000;  // of one path at a time

using Opening = OutputFile::Opening;
using Lock = OutputFile::Lock;

fs::path temporary_name(const fs::path& path, int writer) {
    fs::path name = path;
    name += writer == 0 ? ".tmp" : ".tmp." + std::to_string(writer);
    return name;
}

// A file that is there and that nobody writes any more, locked by us; null otherwise. `gone` when it has
// vanished meanwhile.
std::unique_ptr<OutputFile> take_leftover(const fs::path& name, const fs::path& path, bool& gone) {
    int error = 0;
    auto file = OutputFile::try_open(name, path, Opening::old_only, error);
    gone = error == ENOENT;
    // Without locks nobody knows whether its writer lives.
    if (file == nullptr || !file->is_own() || file->lock() != Lock::held) return nullptr;
    gone = !file->is_in_place();
    return gone ? nullptr : std::move(file);
}

// The temporary file of that name, new or taken over; null when another writer has it.
std::unique_ptr<OutputFile> claim(const fs::path& name, const fs::path& path) {
    while (true) {
        int error = 0;
        auto file = OutputFile::try_open(name, path, Opening::new_only, error);
        if (file != nullptr) {
            if (file->lock() == Lock::busy) return nullptr;  // somebody took it for a leftover
            if (file->is_in_place()) return file;
            continue;
        }
        if (error != EEXIST) {
            throw IoError("[write] " + path.string() +
                          ": cannot create: " + std::generic_category().message(error));
        }
        bool gone = false;
        file = take_leftover(name, path, gone);
        if (file != nullptr) file->resize(0);
        if (file != nullptr || !gone) return file;
    }
}

// Leftovers of writers that were killed beside another one.
void remove_leftovers(const fs::path& path, int writer) {
    for (bool gone = false; !gone && writer < kMostWriters; ++writer) {
        const fs::path name = temporary_name(path, writer);
        const auto leftover = take_leftover(name, path, gone);  // locked until the name is gone
        if (leftover != nullptr) remove_file(name);
    }
}

std::unique_ptr<OutputFile> open_temporary(const fs::path& path) {
    for (int writer = 0; writer < kMostWriters; ++writer) {
        auto file = claim(temporary_name(path, writer), path);
        if (file == nullptr) continue;
        remove_leftovers(path, writer + 1);
        return file;
    }
    throw IoError("[write] " + path.string() + ": more than " + std::to_string(kMostWriters) +
                  " temporary files (*.tmp.N) of it are there");
}

}  // namespace

void check_file_name(const fs::path& path) {
    if (!path.has_filename()) throw IoError("[write] '" + path.string() + "' is not a file name");
    std::error_code ignored;
    const fs::file_status there = fs::status(path, ignored);
    if (fs::is_directory(there))
        throw IoError("[write] " + path.string() + ": cannot create: Is a directory");
    // A device or a pipe would be gone when the file takes its name.
    if (fs::exists(there) && !fs::is_regular_file(there))
        throw IoError("[write] " + path.string() + ": cannot create: what is there is no regular file");
}

AtomicFile::AtomicFile(fs::path path) : path_(std::move(path)) {
    check_file_name(path_);
    file_ = open_temporary(path_);
    name_.set(temporary_path());
}

AtomicFile::~AtomicFile() {
    if (!committed_) remove_file(temporary_path());
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

// The lock stays until the temporary name is gone: without it another writer would take the file over.
void AtomicFile::commit() {
    file_->sync();
    rename_file(temporary_path(), path_);
    committed_ = true;
    name_.clear();
    sync_folder_of(path_);
    file_->close();
}

void write_file_atomically(const fs::path& path, std::string_view text) {
    AtomicFile file(path);
    file.write(text);
    file.commit();
}

}  // namespace aerogel
