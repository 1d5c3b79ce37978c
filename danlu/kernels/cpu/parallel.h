// Work cut in pieces, for kernels that are called from between torch's own operators.
//
// torch's operators run on the threads of GNU OpenMP, which spin for a while after each: a second set of threads would
// fight them for the cores. So the pieces run on those same threads where that library is in the process (looked up by
// name, there is nothing to link), and on a team of our own (team.h) where it is not.
//
// A piece must not depend on who computes it or when: then results are the same bits for any number of threads.

#pragma once

#include <atomic>
#include <memory>
#include <mutex>

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#endif

#include "lanes.h"
#include "memory.h"
#include "team.h"

namespace danlu {

using OpenMP = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);

inline OpenMP find_openmp() {
#if defined(__unix__) || defined(__APPLE__)
    return (OpenMP)dlsym(RTLD_DEFAULT, "GOMP_parallel");
#else
    return nullptr;
#endif
}

template <class F>
void on_own_team(int threads, F& work) {
    static std::mutex lock;
    static std::unique_ptr<Team> team;
    std::lock_guard<std::mutex> held(lock);
    if (!team || team->size() != threads) team = std::make_unique<Team>(threads);
    team->run([&](int) { work(); });
}

// f(0) ... f(n - 1), in any order. `threads` is torch's number: OpenMP builds its team anew when asked for another size.
template <class F>
void in_parallel(int threads, int n, F f) {
    static const OpenMP openmp = find_openmp();
    std::atomic<int> counter{0};
    auto work = [&] {
        for (int i; (i = Team::next(counter)) < n;) f(i);
    };
    if (threads <= 1 || n <= 1) return work();
    if (!openmp) return on_own_team(threads, work);
    openmp([](void* p) { (*static_cast<decltype(work)*>(p))(); }, &work, unsigned(threads), 0);
}

// A thread's own memory, kept for the next call: the same again for the same type and slot, or larger.
template <class T, int SLOT = 0>
T* scratch(size_t n) {
    thread_local Array<T> memory;
    if (memory.size() < n) memory.resize(n);
    return memory.data();
}

}  // namespace danlu
