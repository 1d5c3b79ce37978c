// A team of threads that sleeps between steps and spins inside one.
//
// A step of a small model is some hundred stages of ten microseconds. Waking a thread costs as much as such a stage, so
// the team wakes once a step (a futex, through std::atomic::wait) and meets at barriers that spin. Work inside a stage
// is taken in small pieces from a shared counter, not cut in equal parts: on a machine with neighbours one core may be
// away for a moment, and the others go on with its share.
//
//     team.run([&](int worker) { ...; team.barrier(); ... });         the caller is worker 0
//     for (int i; (i = team.next(counter)) < n;) ...                   a counter is 0 before its stage
//
// A barrier that waits long (a stolen core, or more threads than cores) gives its time slice away instead of burning it.

#pragma once

#include <sched.h>

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

namespace danlu {

inline void pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class Team {
  public:
    explicit Team(int size) : size_(size < 1 ? 1 : size) {
        for (int worker = 1; worker < size_; worker++) threads_.emplace_back([this, worker] { serve(worker); });
    }

    ~Team() {
        ending_ = true;
        call_.fetch_add(1, std::memory_order_release);
        call_.notify_all();
        for (auto& thread : threads_) thread.join();
    }

    int size() const { return size_; }

    // Run `work` on every member and return when all are done.
    void run(const std::function<void(int)>& work) {
        work_ = &work;
        done_.store(0, std::memory_order_relaxed);
        call_.fetch_add(1, std::memory_order_release);
        if (size_ > 1) call_.notify_all();
        work(0);
        wait_until([&] { return done_.load(std::memory_order_acquire) == size_ - 1; });
    }

    // Nobody passes before all have come.
    void barrier() {
        if (size_ == 1) return;
        uint32_t turn = turn_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
            arrived_.store(0, std::memory_order_relaxed);
            turn_.store(turn + 1, std::memory_order_release);
            return;
        }
        wait_until([&] { return turn_.load(std::memory_order_acquire) != turn; });
    }

    static int next(std::atomic<int>& counter) { return counter.fetch_add(1, std::memory_order_relaxed); }

  private:
    template <class Ready>
    static void wait_until(Ready ready) {
        for (int spins = 0; !ready(); spins++) {
            if (spins < 4096)
                pause();
            else
                sched_yield();
        }
    }

    void serve(int worker) {
        uint32_t seen = 0;
        for (;;) {
            // A caller that steps again at once finds the team awake.
            for (int spins = 0; spins < 20000 && call_.load(std::memory_order_acquire) == seen; spins++) pause();
            call_.wait(seen, std::memory_order_acquire);
            seen = call_.load(std::memory_order_acquire);
            if (ending_) return;
            (*work_)(worker);
            done_.fetch_add(1, std::memory_order_release);
        }
    }

    const int size_;
    std::vector<std::thread> threads_;
    const std::function<void(int)>* work_ = nullptr;
    std::atomic<bool> ending_{false};
    alignas(64) std::atomic<uint32_t> call_{0};
    alignas(64) std::atomic<int> done_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<uint32_t> turn_{0};
};

}  // namespace danlu
