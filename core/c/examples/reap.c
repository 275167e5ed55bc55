// Reaps the rings of a simulated guest that dirties pages as a recorded one did, and prints what each pass
// found and decided. Time is simulated as well, so two runs print the same.
//
// usage: reap POLICY TRACE.csv

#include <dirty_ring.h>

#include "kvm.h"
#include "trace.h"

// Pages of the guest's one slot, and microseconds that a turn takes.
enum { VCPUS = 2, PAGES = 1 << 16, TURN_US = 30 };

struct vm {
    struct ring rings[VCPUS];
    struct dirty_ring_reaper *reaper;
    uint64_t now_us, deadline_us, passes, published;
    int is_woken, is_done;
};

static int checked(int result)
{
    if (result < 0)
        die("dirty ring", dirty_ring_error_text());
    return result;
}

static int reset(void *user, int *maybe_interrupted)
{
    struct vm *vm = user;
    int count = 0;
    *maybe_interrupted = 0;
    for (int vcpu = 0; vcpu < VCPUS; vcpu++)
        count += ring_reset(&vm->rings[vcpu]);
    return count;
}

static int publish(void *user, const struct dirty_ring_page *pages, size_t count)
{
    struct vm *vm = user;
    // Here a migration would mark the pages in its bitmap.
    (void)pages;
    vm->published += count;
    return 0;
}

static int publish_slot(void *user, uint32_t slot, uint64_t pages)
{
    (void)user, (void)slot, (void)pages;
    return 0;
}

static void wake(void *user)
{
    struct vm *vm = user;
    vm->is_woken = 1;
}

static void print_new_pass(struct vm *vm)
{
    struct dirty_ring_pass pass;
    checked(dirty_ring_reaper_last_pass(vm->reaper, &pass));
    if (pass.number == vm->passes)
        return;
    vm->passes = pass.number;
    printf("pass %" PRIu64 " now %" PRIu64 " harvested %" PRIu64 "+%" PRIu64 " fullest %" PRIu32
           " ring_fulls %" PRIu32 " wakes %" PRIx32 " late %" PRIu64 " took %" PRIu64 " wait %" PRIu64
           " level %d reasons %" PRIx32 "\n",
           pass.number, pass.now_us, pass.found.harvested, pass.found.ring_full_harvested,
           pass.found.fullest, pass.found.ring_fulls, pass.found.wakes, pass.found.late_us,
           pass.found.took_us, pass.decided.wait_us, pass.decided.level, pass.decided.reasons);
}

// Takes the turns that are due until `until_us`.
static void reap_until(struct vm *vm, uint64_t until_us)
{
    while (!vm->is_done && (vm->is_woken || vm->deadline_us <= until_us)) {
        if (!vm->is_woken && vm->now_us < vm->deadline_us)
            vm->now_us = vm->deadline_us;
        vm->is_woken = 0;
        int turn = checked(dirty_ring_reaper_turn(vm->reaper, vm->now_us, &vm->deadline_us));
        vm->now_us += TURN_US;
        vm->is_done = turn == DIRTY_RING_TURN_DONE;
        print_new_pass(vm);
    }
    if (vm->now_us < until_us)
        vm->now_us = until_us;
}

int main(int count, char **arguments)
{
    struct dirty_ring_size size = { .entries = 4096, .page_bytes = 4096 };
    struct dirty_ring_callbacks callbacks = { NULL, reset, publish, publish_slot, wake };
    struct dirty_ring_controller *controller;
    struct dirty_ring_totals totals;
    struct trace trace;
    struct vm vm = { 0 };
    uint64_t row[COLUMNS], begin_us = 0, written = 0;

    if (count != 3)
        die("usage", "reap POLICY TRACE.csv");
    trace_open(&trace, arguments[2]);
    callbacks.user = &vm;
    checked(dirty_ring_size_check(&size));
    checked(dirty_ring_controller_new(arguments[1], &size, &controller));
    checked(dirty_ring_reaper_new(DIRTY_RING_ABI, controller, &size, &callbacks, &vm.reaper));
    checked(dirty_ring_controller_free(controller));
    checked(dirty_ring_reaper_add_slot(vm.reaper, 0, PAGES));
    for (int vcpu = 0; vcpu < VCPUS; vcpu++) {
        struct ring *ring = &vm.rings[vcpu];
        ring_init(ring, size.entries, size.soft_limit);
        checked(dirty_ring_reaper_add_ring(vm.reaper, ring->entries, ring->size, NULL, vm.now_us));
    }
    while (trace_next(&trace, row)) {
        uint64_t pages = row[HARVESTED] + row[RING_FULL_HARVESTED];
        for (uint64_t page = 0; page < pages; page++, written++) {
            uint32_t vcpu = (uint32_t)(written % VCPUS);
            reap_until(&vm, begin_us + row[ELAPSED] * page / pages);
            ring_push(&vm.rings[vcpu], 0, written % PAGES);
            if (ring_is_full(&vm.rings[vcpu])) {
                struct dirty_ring_ring_full report;
                checked(dirty_ring_reaper_ring_full(vm.reaper, vcpu, DIRTY_RING_CHUNK, vm.now_us,
                                                    &report));
            }
        }
        begin_us += row[ELAPSED];
        reap_until(&vm, begin_us);
    }
    checked(dirty_ring_reaper_stop(vm.reaper));
    reap_until(&vm, DIRTY_RING_NEVER);
    checked(dirty_ring_reaper_totals(vm.reaper, &totals));
    printf("written %" PRIu64 " published %" PRIu64 " ring_fulls %" PRIu64 " resets %" PRIu64 "\n",
           written, vm.published, totals.ring_fulls, totals.resets);
    checked(dirty_ring_reaper_free(vm.reaper));
    for (int vcpu = 0; vcpu < VCPUS; vcpu++)
        free(vm.rings[vcpu].entries);
    return written == totals.published ? 0 : 1;
}
