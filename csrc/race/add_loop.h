/* SPDX-License-Identifier: MIT */
/*
 * add_loop.h - the timed loop, the same for every scheme and with the add inlined: no call through
 * a pointer for each add. A scheme's file includes it after it has defined
 *
 *      handle                     what a caller holds in its hand: a pointer or a percpu_ptr
 *      handle handle_of(state)    where it comes from, once per loop
 *      void add(handle)           add 1
 */
static void add_loop(void *state, uint64_t times)
{
    handle h = handle_of(state);
    _Static_assert(PERCPU_RACE_UNROLL == 8, "as many adds as there are below");
    for (uint64_t left = times / PERCPU_RACE_UNROLL; left > 0; left--) {
        add(h);
        add(h);
        add(h);
        add(h);
        add(h);
        add(h);
        add(h);
        add(h);
    }
}
