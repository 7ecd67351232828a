// A part of a pipeline (text encoder, image encoder, transformer, VAE): loaded when it is first needed, and
// shared by the calls that use it. Between its turns it stays on its device, waits in host memory or goes.
#pragma once

#include <memory>
#include <mutex>
#include <utility>

#include "aerogel/linear.h"
#include "aerogel/pipeline.h"
#include "base/memory.h"

namespace aerogel {

/// T has move_weights(WeightPlace). Safe from several threads; tests give a Mutex of their own.
template <typename T, typename Mutex = std::mutex>
class PipelineComponent {
  public:
    ~PipelineComponent() { let_go(Keep::nothing); }

    /// Loaded by `load`, which gives a std::unique_ptr<T>, where it is not yet, and on its device for as long
    /// as somebody holds what this gives. The component holds it as well until let_go().
    template <typename Load>
    std::shared_ptr<T> get(const Load& load) {
        const std::lock_guard lock(mutex_);
        std::shared_ptr<T> use = in_use_.lock();
        if (!use) {
            if (!whole_) whole_ = load();
            bring(*whole_);
            use = std::shared_ptr<T>(whole_.get(), [this, whole = whole_](T*) { ended(whole); });
            in_use_ = use;
        }
        held_ = use;
        return use;
    }

    /// Wherever its weights are.
    bool is_loaded() const {
        const std::lock_guard lock(mutex_);
        return whole_ != nullptr;
    }

    /// Its turn is over. Who holds it goes on using it, where it is.
    void let_go(Keep keep) {
        if (keep == Keep::on_device) return;
        {
            std::shared_ptr<T> held, whole;  // let go of outside of the lock
            const std::lock_guard lock(mutex_);
            held.swap(held_);
            if (keep == Keep::in_host_memory) return;
            whole.swap(whole_);
            in_use_.reset();
        }
        return_freed_memory();
    }

  private:
    static void bring(T& whole) {
        try {
            whole.move_weights(WeightPlace::device);
        } catch (...) {  // what came makes room again
            whole.move_weights(WeightPlace::host);
            throw;
        }
    }

    // Nobody holds this use any more; another may have begun meanwhile.
    void ended(const std::shared_ptr<T>& whole) noexcept {
        const std::lock_guard lock(mutex_);
        if (whole != whole_ || !in_use_.expired()) return;
        try {
            whole->move_weights(WeightPlace::host);
        } catch (...) {  // there is no memory for it: it is loaded anew
            whole_.reset();
        }
    }

    mutable Mutex mutex_;
    std::shared_ptr<T> whole_;  ///< wherever its weights are
    std::weak_ptr<T> in_use_;   ///< whose last holder sends the weights away
    std::shared_ptr<T> held_;
};

}  // namespace aerogel
