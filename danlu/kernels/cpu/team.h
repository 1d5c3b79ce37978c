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
// A barrier that waits long (a stolen core, or more threads than cores) goes to sleep: a thread that only gave its time
// slice away would keep asking for it back, and those it waits for would get to run less.

#pragma once

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
        call_.fetch_add(1, std::memory_order_release);
        if (size_ > 1) call_.notify_all();
        work(0);
        barrier();
    }

    // Nobody passes before all have come.
    void barrier() {
        if (size_ == 1) return;
        uint32_t turn = turn_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
            arrived_.store(0, std::memory_order_relaxed);
            turn_.store(turn + 1, std::memory_order_release);
            turn_.notify_all();
            return;
        }
        spin_then_sleep(turn_, turn, 4096);
    }

    static int next(std::atomic<int>& counter) { return counter.fetch_add(1, std::memory_order_relaxed); }

  private:
    // Returns when `value` is no longer `old`.
    static void spin_then_sleep(const std::atomic<uint32_t>& value, uint32_t old, int spins) {
        while (spins-- && value.load(std::memory_order_acquire) == old) pause();
        value.wait(old, std::memory_order_acquire);
    }

    void serve(int worker) {
        for (uint32_t seen = 0;; seen++) {
            spin_then_sleep(call_, seen, 60000);  // a caller that steps again within a millisecond finds the team awake
            if (ending_) return;
            (*work_)(worker);
            barrier();
        }
    }

    const int size_;
    std::vector<std::thread> threads_;
    const std::function<void(int)>* work_ = nullptr;
    std::atomic<bool> ending_{false};
    alignas(64) std::atomic<uint32_t> call_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<uint32_t> turn_{0};
};

}  // namespace danlu
