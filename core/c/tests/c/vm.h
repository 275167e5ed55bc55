// A VM of two vCPUs for the tests: simulated rings, callbacks that can be made to fail, and a check.

#ifndef VM_H
#define VM_H

#include <dirty_ring.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "../../examples/kvm.h"

enum { VCPUS = 2, SLOT = 3, PAGES = 10000 };

// Ends the program where `what` isn't true, and says where that was.
#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            fprintf(stderr, "%s:%d: not true: %s (%s)\n", __FILE__, __LINE__, #what,               \
                    dirty_ring_error_text());                                                      \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

// Checks that `call` fails with `code` and a text that holds `words`.
#define FAILS(call, code, words) CHECK((call) == (code) && strstr(dirty_ring_error_text(), words))

struct vm {
    // One more than there are at first.
    struct ring rings[VCPUS + 1];
    struct dirty_ring_size size;
    struct dirty_ring_callbacks callbacks;
    struct dirty_ring_reaper *reaper;
    uint64_t now_us, deadline_us;
    // What happened.
    uint64_t published, counted_as_dirty, wakes;
    // Where it isn't 0, the callback returns it.
    int reset_fails, publish_fails, maybe_interrupted;
    // Called inside of each reset.
    void (*inside)(struct vm *vm);
};

static int vm_reset(void *user, int *maybe_interrupted)
{
    struct vm *vm = user;
    int count = 0;
    CHECK(*maybe_interrupted == 0);
    *maybe_interrupted = vm->maybe_interrupted;
    if (vm->inside)
        vm->inside(vm);
    for (int vcpu = 0; vcpu <= VCPUS; vcpu++)
        count += vm->rings[vcpu].entries ? ring_reset(&vm->rings[vcpu]) : 0;
    return vm->reset_fails ? vm->reset_fails : count;
}

static int vm_publish(void *user, const struct dirty_ring_page *pages, size_t count)
{
    struct vm *vm = user;
    CHECK(count != 0);
    for (size_t i = 0; i < count; i++)
        CHECK(pages[i].slot == SLOT && pages[i].offset < PAGES);
    if (!vm->publish_fails)
        vm->published += count;
    return vm->publish_fails;
}

static int vm_publish_slot(void *user, uint32_t slot, uint64_t pages)
{
    struct vm *vm = user;
    CHECK(slot == SLOT && pages == PAGES);
    vm->counted_as_dirty += pages;
    return 0;
}

static void vm_wake(void *user)
{
    struct vm *vm = user;
    vm->wakes++;
}

static inline struct dirty_ring_controller *vm_controller(const struct vm *vm, const char *policy)
{
    struct dirty_ring_controller *controller;
    CHECK(dirty_ring_controller_new(policy, &vm->size, &controller) == 0 && controller);
    return controller;
}

// Creates the reaper of a VM, without rings.
static inline void vm_reaper(struct vm *vm, const char *policy)
{
    struct dirty_ring_controller *controller = vm_controller(vm, policy);
    CHECK(dirty_ring_reaper_new(DIRTY_RING_ABI, controller, &vm->size, &vm->callbacks, &vm->reaper) == 0);
    CHECK(dirty_ring_controller_free(controller) == 0);
    CHECK(dirty_ring_reaper_add_slot(vm->reaper, SLOT, PAGES) == 0);
}

static inline void vm_init(struct vm *vm, const char *policy)
{
    memset(vm, 0, sizeof *vm);
    vm->size = (struct dirty_ring_size){ .entries = 1024, .page_bytes = 4096 };
    CHECK(dirty_ring_size_check(&vm->size) == 0);
    CHECK(vm->size.soft_limit == 960 && vm->size.bytes == 16384);
    vm->callbacks = (struct dirty_ring_callbacks){ vm, vm_reset, vm_publish, vm_publish_slot, vm_wake };
    vm_reaper(vm, policy);
    for (int vcpu = 0; vcpu < VCPUS; vcpu++) {
        struct ring *ring = &vm->rings[vcpu];
        ring_init(ring, vm->size.entries, vm->size.soft_limit);
        CHECK(dirty_ring_reaper_add_ring(vm->reaper, ring->entries, ring->size, NULL, 0) == vcpu);
    }
}

static inline void vm_free(struct vm *vm)
{
    CHECK(dirty_ring_reaper_free(vm->reaper) == 0);
    for (int vcpu = 0; vcpu <= VCPUS; vcpu++)
        free(vm->rings[vcpu].entries);
}

// Lets a vCPU dirty pages `from` to `from + count - 1`. Where its ring is full, it gets in again after a
// few exits at most.
static inline void vm_write(struct vm *vm, int vcpu, uint64_t from, uint64_t count)
{
    for (uint64_t page = from; page < from + count; page++) {
        for (int exits = 0; ring_is_full(&vm->rings[vcpu]); exits++) {
            struct dirty_ring_ring_full report;
            CHECK(exits < 8);
            CHECK(dirty_ring_reaper_ring_full(vm->reaper, (uint32_t)vcpu, DIRTY_RING_CHUNK, vm->now_us,
                                              &report) == 0);
        }
        ring_push(&vm->rings[vcpu], SLOT, page);
    }
}

// Takes a turn at the time that the last one named.
static inline int vm_turn(struct vm *vm)
{
    if (vm->deadline_us != DIRTY_RING_NEVER && vm->now_us < vm->deadline_us)
        vm->now_us = vm->deadline_us;
    return dirty_ring_reaper_turn(vm->reaper, vm->now_us, &vm->deadline_us);
}

// Takes turns until there is nothing to do, or one fails; returns what that one did.
static inline int vm_pass(struct vm *vm)
{
    int turn;
    do
        turn = vm_turn(vm);
    while (turn == DIRTY_RING_TURN_AGAIN);
    return turn;
}

static inline int vm_drain(struct vm *vm)
{
    struct dirty_ring_drain drain = { 0, 0, 0 };
    int left;
    do
        left = dirty_ring_reaper_drain(vm->reaper, &drain, vm->now_us);
    while (left == DIRTY_RING_TURN_AGAIN);
    return left;
}

static inline struct dirty_ring_totals vm_totals(struct vm *vm)
{
    struct dirty_ring_totals totals;
    CHECK(dirty_ring_reaper_totals(vm->reaper, &totals) == 0);
    return totals;
}

#endif
