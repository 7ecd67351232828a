// The memory of the fake GPUs: one range of addresses that the host cannot touch while the GPU is at rest.
// What is new holds NaN, and between allocations lies memory that no kernel may touch.
#pragma once

#include <cstddef>
#include <map>

namespace aerogel::emulator {

class FakeMemory {
  public:
    explicit FakeMemory(std::size_t capacity) : capacity_(capacity) {}

    /// 256-byte aligned; null when the capacity is used up. Not while it is open, as kernels run.
    void* allocate(std::size_t bytes);
    /// False if it was not allocated.
    bool free(void* p);
    bool contains(const void* p, std::size_t bytes) const;
    std::size_t used() const { return used_; }

    /// Readable and writable as long as one lives.
    class Open {
      public:
        explicit Open(FakeMemory& memory) : memory_(memory) {
            if (memory_.open_++ == 0) memory_.protect(true);
        }
        ~Open() {
            if (--memory_.open_ == 0) memory_.protect(false);
        }
        Open(const Open&) = delete;
        Open& operator=(const Open&) = delete;

      private:
        FakeMemory& memory_;
    };
    /// The same of these bytes alone, for a moment in which nothing else is opened.
    class OpenPart {
      public:
        OpenPart(FakeMemory& memory, const void* p, std::size_t bytes);
        ~OpenPart();
        OpenPart(const OpenPart&) = delete;
        OpenPart& operator=(const OpenPart&) = delete;

      private:
        void* begin_ = nullptr;
        std::size_t bytes_ = 0;
    };

  private:
    void protect(bool open) const;
    char* find_gap(std::size_t bytes);

    std::size_t capacity_, used_ = 0, reserved_ = 0;
    int open_ = 0;
    char* begin_ = nullptr;
    std::map<char*, std::size_t> blocks_;
};

}  // namespace aerogel::emulator
