// Atomic operations of kernels on global and shared memory. Blocks run one after the other, so they are plain
// here; they count as no access of the race detection.
#pragma once

#include "emulator/lane.h"

namespace aerogel::emulator {

/// p is memory that the kernel may touch, aligned to its size.
void atomic_read(void* to, const void* p, int bytes, Where where);
void atomic_write(void* p, const void* from, int bytes);

template <class T, class F>
T atomic(T* p, F next, Where where) {
    T old;
    atomic_read(&old, p, static_cast<int>(sizeof(T)), where);
    const T now = next(old);
    atomic_write(p, &now, static_cast<int>(sizeof(T)));
    return old;
}

}  // namespace aerogel::emulator

template <class T>
T atomicAdd(T* p, T v, aerogel::emulator::Where where = aerogel::emulator::Where::here()) {
    return aerogel::emulator::atomic(
        p, [v](T a) { return static_cast<T>(a + v); }, where);
}
template <class T>
T atomicMax(T* p, T v, aerogel::emulator::Where where = aerogel::emulator::Where::here()) {
    return aerogel::emulator::atomic(
        p, [v](T a) { return a < v ? v : a; }, where);
}
template <class T>
T atomicMin(T* p, T v, aerogel::emulator::Where where = aerogel::emulator::Where::here()) {
    return aerogel::emulator::atomic(
        p, [v](T a) { return v < a ? v : a; }, where);
}
template <class T>
T atomicOr(T* p, T v, aerogel::emulator::Where where = aerogel::emulator::Where::here()) {
    return aerogel::emulator::atomic(
        p, [v](T a) { return static_cast<T>(a | v); }, where);
}
template <class T>
T atomicExch(T* p, T v, aerogel::emulator::Where where = aerogel::emulator::Where::here()) {
    return aerogel::emulator::atomic(
        p, [v](T) { return v; }, where);
}
template <class T>
T atomicCAS(T* p, T expected, T v, aerogel::emulator::Where where = aerogel::emulator::Where::here()) {
    return aerogel::emulator::atomic(
        p, [=](T a) { return a == expected ? v : a; }, where);
}
inline void __threadfence() {}
