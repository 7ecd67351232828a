// Fibers and who runs next. Inside a warp control goes from lane to lane; now and then, and whenever a warp
// has nothing to run, another warp is drawn. Nobody to run and threads left: a deadlock, told at once.
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <numeric>

#include "emulator/accesses.h"
#include "emulator/barriers.h"
#include "emulator/block.h"
#include "emulator/engines.h"

extern "C" void aerogel_emulator_switch(void** save, void* load);
asm(R"(
.text
.globl aerogel_emulator_switch
.hidden aerogel_emulator_switch
.type aerogel_emulator_switch,@function
aerogel_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size aerogel_emulator_switch,.-aerogel_emulator_switch
)");

namespace aerogel::emulator {

__thread Fiber* running __attribute__((tls_model("initial-exec"))) = nullptr;

dim3 thread_index() {
    return running->thread_index;
}
dim3 block_index() {
    return running->block_index;
}
dim3 block_size() {
    const Size3& s = running->block->shape->block;
    return {s.x, s.y, s.z};
}
dim3 grid_size() {
    const Size3& s = running->block->shape->grid;
    return {s.x, s.y, s.z};
}
unsigned char* shared_memory() {
    return running->block->shared;
}

namespace {

constexpr std::size_t kStackBytes = 64 * 1024, kPage = 4096;

/// Stacks, each below a page that faults, and the shared memory: kept from launch to launch.
class Arena {
  public:
    unsigned char* stack_top(unsigned i) {
        while (stacks_.size() <= i) {
            auto* p = map(kStackBytes + kPage);
            ::mprotect(p, kPage, PROT_NONE);
            stacks_.push_back(p);
        }
        // Stacks that all begin at the same offset of a page fight for the same lines of the cache.
        return stacks_[i] + kPage + kStackBytes - 64 - i % 31 * 128;
    }
    unsigned char* shared() {
        if (shared_ == nullptr) shared_ = map(kSharedReserveBytes + kPage);
        return shared_;
    }
    ~Arena() {
        for (auto* p : stacks_) ::munmap(p, kStackBytes + kPage);
        if (shared_ != nullptr) ::munmap(shared_, kSharedReserveBytes + kPage);
    }

  private:
    static unsigned char* map(std::size_t bytes) {
        void* p = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                         -1, 0);
        if (p == MAP_FAILED) std::abort();
        return static_cast<unsigned char*>(p);
    }
    std::vector<unsigned char*> stacks_;
    unsigned char* shared_ = nullptr;
};

Arena& arena() {
    static thread_local Arena a;
    return a;
}

void end_of_fiber(Fiber& fiber) {
    Block& block = *fiber.block;
    Warp& warp = block.warps[fiber.warp_id];
    warp.live &= ~(1U << fiber.lane_id);
    --block.live;
    leave_barrier(block);
}

void entry() {
    Fiber& fiber = self();
    fiber.block->body(fiber.block->arguments);
    if (!fiber.copies.empty())
        fail("the thread ends before its asynchronous copies were waited for", fiber.copies[0].where);
    end_of_fiber(fiber);
    wait("nothing, it has ended", -1, {"", 0});
    std::abort();
}

void prepare(Fiber& fiber, unsigned i) {
    auto** sp = reinterpret_cast<void**>(arena().stack_top(i));
    fiber.stack_end = reinterpret_cast<const unsigned char*>(sp);
    fiber.stack_begin = fiber.stack_end - kStackBytes;
    *--sp = nullptr;  // keeps the stack aligned as after a call
    *--sp = reinterpret_cast<void*>(&entry);
    for (int r = 0; r < 6; ++r) *--sp = nullptr;
    fiber.stack_pointer = sp;
}

void switch_to(void** save, Fiber& next) {
    running = &next;
    aerogel_emulator_switch(save, next.stack_pointer);
}

/// Who waits where, alike threads together.
std::string deadlock(const Block& block) {
    std::map<std::string, std::vector<unsigned>> waiting;
    for (const Fiber& f : block.fibers) {
        const bool live = (block.warps[f.warp_id].live >> f.lane_id & 1) != 0;
        const std::string number = f.waits_at >= 0 ? " " + std::to_string(f.waits_at) : "";
        waiting[live ? std::string(f.waits_for) + number + " at " + text_of(f.where) : "ended"].push_back(
            f.id);
    }
    std::string text = "deadlock:";
    for (const auto& [what, ids] : waiting) {
        text += " " + std::to_string(ids.size()) + " threads (";
        for (std::size_t i = 0, ranges = 0; i < ids.size(); ++ranges) {
            std::size_t last = i;
            while (last + 1 < ids.size() && ids[last + 1] == ids[last] + 1) ++last;
            if (ranges == 4) {
                text += ", ...";
                break;
            }
            text += (i > 0 ? ", " : "") + std::to_string(ids[i]) +
                    (last > i ? "-" + std::to_string(ids[last]) : "");
            i = last + 1;
        }
        text += what == "ended" ? ") have ended;" : ") wait for " + what + ";";
    }
    text.pop_back();
    return text;
}

void add_fault(Block& block, const std::string& text) {
    block.over = true;
    const dim3& b = block.fibers[0].block_index;
    block.report->faults.push_back(text + " [block " + std::to_string(b.x) + "," + std::to_string(b.y) + "," +
                                   std::to_string(b.z) + "]");
}

void begin(Block& block, Size3 index, const Shape& shape) {
    const unsigned threads = shape.block.count();
    std::memset(block.shared, 0xFF, shape.shared_bytes);  // a NaN in every float format
    if (block.options->races) {
        block.shadow.written.assign(shape.shared_bytes + 16, 0);
        block.shadow.read.assign(shape.shared_bytes + 16, 0);
        block.shadow.in_use.assign(shape.shared_bytes / 16 + 1, 0);
        block.shadow.all_in_use = 0;
    }
    Knowledge* nothing = block.pool->blank();
    for (unsigned i = 0; i < threads; ++i) {
        Fiber& f = block.fibers[i];
        f.thread_index =
            dim3(i % shape.block.x, i / shape.block.x % shape.block.y, i / shape.block.x / shape.block.y);
        f.block_index = dim3(index.x, index.y, index.z);
        f.copies.clear();
        f.groups = 0;
        f.clock = 1;
        f.waits_for = "";
        f.fenced = 0;
        block.pool->assign(f.knows, nothing);
        block.pool->assign(f.fence_knows, nothing);
        prepare(f, i);
    }
    block.pool->drop(nothing);
    for (Warp& w : block.warps) {
        w.live = w.runnable = ~0U;
        w.arrived = 0;
    }
    block.live = threads;
    block.runnable = static_cast<std::uint32_t>((std::uint64_t{1} << block.warps.size()) - 1);
    for (Barrier& b : block.barriers) reset_barrier(block, b);
    reset_engines(block);
    block.has_atomics = false;
    block.number = ++block.report->blocks;
}

/// One warp for a while.
void turn(Block& block) {
    unsigned w = static_cast<unsigned>(block.random() % block.warps.size());
    const std::uint32_t above = block.runnable >> w << w;
    w = static_cast<unsigned>(std::countr_zero(above != 0 ? above : block.runnable));
    Warp& warp = block.warps[w];
    if (warp.runnable == 0) {
        block.runnable &= ~(1U << w);
        return;
    }
    const unsigned start = static_cast<unsigned>(block.random() % 32);
    const std::uint32_t next = std::rotr(warp.runnable, static_cast<int>(start));
    const unsigned l = (start + static_cast<unsigned>(std::countr_zero(next))) % 32;
    switch_to(&block.scheduler, block.fibers[w * 32 + l]);
    running = nullptr;
}

void run_block(Block& block, Size3 index, const Shape& shape) {
    begin(block, index, shape);
    while (block.live > 0 && !block.over) {
        if (block.runnable != 0) {
            if (block.random() % 64 == 0) land_a_tile(block);
            turn(block);
        } else if (!land_a_tile(block)) {
            add_fault(block, deadlock(block));
        }
    }
}

std::string why_not(const Shape& shape, const Options& options) {
    const unsigned threads = shape.block.count();
    if (shape.grid.count() == 0 || threads == 0) return "the grid or the block is empty";
    if (threads > 1024 || threads % 32 != 0) return "blocks have whole warps here, and 1024 threads at most";
    if (shape.grid.y > 65535 || shape.grid.z > 65535 || shape.block.z > 64) return "the grid is too large";
    if (shape.shared_bytes > options.most_shared_bytes) return "more shared memory than a block may have";
    return {};
}

}  // namespace

void wait(const char* what, int number, Where where) {
    Fiber& me = self();
    Block& block = *me.block;
    Warp& warp = block.warps[me.warp_id];
    me.waits_for = what;
    me.waits_at = number;
    me.where = where;
    warp.runnable &= ~(1U << me.lane_id);
    ++block.report->switches;
    if (warp.runnable == 0) count_banks(block, warp);
    if (warp.runnable == 0 || block.random() % 64 == 0) {
        if (warp.runnable == 0) block.runnable &= ~(1U << me.warp_id);
        aerogel_emulator_switch(&me.stack_pointer, block.scheduler);
    } else {
        const std::uint32_t next = std::rotr(warp.runnable, static_cast<int>(me.lane_id));
        const unsigned l = (me.lane_id + static_cast<unsigned>(std::countr_zero(next))) % 32;
        switch_to(&me.stack_pointer, block.fibers[me.warp_id * 32 + l]);
    }
}

void fail(const std::string& message, Where where) {
    Fiber& me = self();
    add_fault(*me.block, message + " [thread " + std::to_string(me.id) + ", " + text_of(where) + "]");
    for (;;) aerogel_emulator_switch(&me.stack_pointer, me.block->scheduler);
}

void fault(const char* message, Where where) {
    fail(message, where);
}

std::string text_of(Where where) {
    if (where.line < 0) return line_of(where.file);
    const char* name = std::strrchr(where.file, '/');
    return std::string(name != nullptr ? name + 1 : where.file) + ":" + std::to_string(where.line);
}

std::string name_of(const Block& block, unsigned member) {
    const auto threads = static_cast<unsigned>(block.fibers.size());
    if (member < threads) return "thread " + std::to_string(member);
    if (member == threads) return "the copy engine";
    return "the products of warp group " + std::to_string(member - threads - 1);
}

Report run(const Shape& shape, void (*body)(const void*), const void* arguments, const Options& options) {
    Report report;
    if (const std::string reason = why_not(shape, options); !reason.empty()) {
        report.faults.push_back(reason);
        return report;
    }
    const unsigned threads = shape.block.count();
    GlobalShadow global;
    Block block;
    block.global = &global;
    block.shape = &shape;
    block.options = &options;
    block.report = &report;
    block.fibers.resize(threads);
    block.warps.resize(threads / 32);
    block.body = body;
    block.arguments = arguments;
    block.shared = arena().shared();
    block.shared_bytes = shape.shared_bytes;
    block.pool = std::make_unique<KnowledgePool>(threads + kEngines);
    for (unsigned i = 0; i < threads; ++i) {
        Fiber& f = block.fibers[i];
        f.block = &block;
        f.id = i;
        f.lane_id = i % 32;
        f.warp_id = i / 32;
    }
    std::vector<unsigned> order(shape.grid.count() - options.first_block);
    std::iota(order.begin(), order.end(), options.first_block);
    Random shuffle{options.seed};
    for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[shuffle() % i]);
    for (const unsigned id : order) {
        block.random.state = options.seed * 0x9E3779B9ULL + id;
        run_block(block,
                  {id % shape.grid.x, id / shape.grid.x % shape.grid.y, id / shape.grid.x / shape.grid.y},
                  shape);
        if (block.over) break;
    }
    return report;
}

std::string Report::text() const {
    std::string all;
    for (const std::string& f : faults) all += f + "\n";
    return all;
}

}  // namespace aerogel::emulator
