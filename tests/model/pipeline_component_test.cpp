// Where a component of a pipeline is between its turns, and who decides it.
#include "model/pipeline_component.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <fstream>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

namespace aerogel {
namespace {

struct Moved {
    std::atomic<int> loads = 0, goings = 0, comings = 0;
    bool may_come = true, may_go = true;
};

class Weights {
  public:
    explicit Weights(Moved& moved) : moved_(moved) { ++moved_.loads; }

    void move_weights(WeightPlace place) {
        if (place == place_) return;
        if (place == WeightPlace::host ? !moved_.may_go : !moved_.may_come)
            throw std::runtime_error("no memory");
        ++(place == WeightPlace::host ? moved_.goings : moved_.comings);
        place_ = place;
    }
    bool there() const { return place_ == WeightPlace::device; }

  private:
    Moved& moved_;
    std::atomic<WeightPlace> place_ = WeightPlace::device;
};

class PipelineComponentTest : public ::testing::Test {
  protected:
    std::shared_ptr<Weights> get() {
        return component_.get([&] { return std::make_unique<Weights>(moved_); });
    }

    Moved moved_;
    PipelineComponent<Weights> component_;
};

TEST_F(PipelineComponentTest, StaysUntilItIsLetGoOf) {
    const Weights* const first = get().get();
    component_.let_go(Keep::on_device);
    EXPECT_EQ(get().get(), first);
    EXPECT_EQ(moved_.loads, 1);
    EXPECT_EQ(moved_.goings, 0);
}

/// Many arrays of a size that the C library keeps for later.
struct ManyArrays {
    void move_weights(WeightPlace) {}
    std::vector<std::vector<char>> arrays{kArrays, std::vector<char>(kArrayBytes, 1)};

    static constexpr std::size_t kArrays = 4096, kArrayBytes = std::size_t{64} << 10;
};

std::size_t resident_bytes() {
    std::ifstream pages("/proc/self/statm");
    std::size_t all = 0, resident = 0;
    pages >> all >> resident;
    return resident * 4096;
}

// Arrays that lie above them in the heap stay, as results of a call do.
TEST(PipelineComponent, GivesItsMemoryBackToTheSystem) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "the sanitizer keeps what is freed";
#endif
    PipelineComponent<ManyArrays> component;
    component.get([] { return std::make_unique<ManyArrays>(); });
    const std::vector<std::vector<char>> later(16, std::vector<char>(ManyArrays::kArrayBytes, 1));
    const std::size_t before = resident_bytes();
    component.let_go(Keep::nothing);
    EXPECT_LT(resident_bytes() + ManyArrays::kArrays * ManyArrays::kArrayBytes / 2, before);
}

TEST_F(PipelineComponentTest, WaitsInHostMemoryAndComesBack) {
    for (int turn = 0; turn < 3; ++turn) {
        EXPECT_TRUE(get()->there());
        component_.let_go(Keep::in_host_memory);
        component_.let_go(Keep::in_host_memory);
    }
    EXPECT_EQ(moved_.loads, 1);
    EXPECT_EQ(moved_.goings, 3);
    EXPECT_EQ(moved_.comings, 2);
}

TEST_F(PipelineComponentTest, GoesWhenTheLastUserLetsGo) {
    std::shared_ptr<Weights> user = get();
    component_.let_go(Keep::in_host_memory);
    EXPECT_TRUE(user->there());
    const std::shared_ptr<Weights> other = get();  // another call, which keeps it
    EXPECT_EQ(other, user);
    user.reset();
    EXPECT_TRUE(other->there());
    EXPECT_EQ(moved_.goings, 0);
}

TEST_F(PipelineComponentTest, IsLoadedAnewAfterItWent) {
    std::shared_ptr<Weights> user = get();
    component_.let_go(Keep::nothing);
    EXPECT_TRUE(user->there());  // and is not moved, since nobody waits for it
    EXPECT_NE(get(), user);
    EXPECT_EQ(moved_.loads, 2);
    user.reset();
    EXPECT_EQ(moved_.goings, 0);
}

TEST_F(PipelineComponentTest, MemoryThatIsNotThere) {
    get();
    component_.let_go(Keep::in_host_memory);
    moved_.may_come = false;
    EXPECT_THROW(get(), std::runtime_error);
    moved_.may_come = true;
    EXPECT_TRUE(get()->there());
    EXPECT_EQ(moved_.loads, 1);
    moved_.may_go = false;
    component_.let_go(Keep::in_host_memory);  // it cannot wait, so it goes
    EXPECT_TRUE(get()->there());
    EXPECT_EQ(moved_.loads, 2);
}

TEST(PipelineComponent, MovesNothingWhenItEnds) {
    Moved moved;
    {
        PipelineComponent<Weights> component;
        component.get([&] { return std::make_unique<Weights>(moved); });
    }
    EXPECT_EQ(moved.goings, 0);
}

// One thread waits before it locks.
class SlowMutex {
  public:
    void lock() {
        if (std::this_thread::get_id() == slow) {
            waits = true;
            waits.notify_all();
            may_go_on.wait(false);
        }
        mutex_.lock();
    }
    void unlock() { mutex_.unlock(); }

    static inline std::atomic<std::thread::id> slow;
    static inline std::atomic<bool> waits = false, may_go_on = false;

  private:
    std::mutex mutex_;
};

TEST(PipelineComponent, AUseThatBeganMeanwhileKeepsItThere) {
    Moved moved;
    PipelineComponent<Weights, SlowMutex> component;
    const auto get = [&] { return component.get([&] { return std::make_unique<Weights>(moved); }); };
    std::shared_ptr<Weights> first = get();
    component.let_go(Keep::in_host_memory);
    std::thread ending([&] {
        SlowMutex::slow = std::this_thread::get_id();
        first.reset();  // the last one, but its end has not been seen yet
    });
    SlowMutex::waits.wait(false);
    const std::shared_ptr<Weights> second = get();
    SlowMutex::may_go_on = true;
    SlowMutex::may_go_on.notify_all();
    ending.join();
    EXPECT_TRUE(second->there());
    EXPECT_EQ(moved.goings, 0);
    EXPECT_EQ(moved.loads, 1);
}

TEST_F(PipelineComponentTest, IsThereForEveryUserOfSeveralThreads) {
    std::atomic<bool> was_there = true;
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&] {
            for (int turn = 0; turn < 3000; ++turn) {
                const std::shared_ptr<Weights> user = get();
                component_.let_go(Keep::in_host_memory);
                for (int look = 0; look < 20; ++look)
                    if (!user->there()) was_there = false;
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_TRUE(was_there);
    EXPECT_EQ(moved_.loads, 1);
    EXPECT_EQ(moved_.goings, moved_.comings + 1);
}

}  // namespace
}  // namespace aerogel
