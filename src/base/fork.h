// What a forked child must not inherit. Only the thread that called fork() lives on in the child: locks that
// others held stay locked there, and threads that were waited for never come.
#pragma once

#include <atomic>
#include <cstdint>

namespace aerogel {

/// How many forks lie between this process and the one that loaded the library. Costs one load.
std::uint64_t fork_generation() noexcept;

/// A value that a forked child makes anew when it first asks for it. What it held in the parent is left alone
/// in the child, because nobody can tell in which state its locks are.
template <typename T>
class PerProcess {
  public:
    PerProcess() = default;
    PerProcess(const PerProcess&) = delete;
    PerProcess& operator=(const PerProcess&) = delete;
    ~PerProcess() {
        Node* node = node_.exchange(nullptr);
        if (node != nullptr && node->generation == fork_generation()) delete node;
    }

    T& get() {
        Node* node = node_.load(std::memory_order_acquire);
        if (node != nullptr && node->generation == fork_generation()) return node->value;
        auto* fresh = new Node{fork_generation(), node, {}};
        if (node_.compare_exchange_strong(node, fresh)) return fresh->value;
        delete fresh;  // another thread was first
        return node->value;
    }

  private:
    struct Node {
        std::uint64_t generation;
        Node* parents;  // what the parent had stays reachable
        T value;
    };
    std::atomic<Node*> node_{nullptr};
};

}  // namespace aerogel
