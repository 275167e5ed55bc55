// A reaper that is stopped, and what goes on: the same one, or another one from its saved state.

#include "vm.h"

static void a_stop_drains_the_rings_and_a_reaper_can_be_resumed(void)
{
    struct vm vm;
    struct dirty_ring_planner_state state;
    struct dirty_ring_ring_full report;
    vm_init(&vm, "ladder");
    struct dirty_ring_controller *ladder = vm_controller(&vm, "ladder");
    struct dirty_ring_controller *seed = vm_controller(&vm, "seed");
    CHECK(vm_pass(&vm) == DIRTY_RING_TURN_WAIT && vm.deadline_us == 1000000);
    FAILS(dirty_ring_reaper_resume(vm.reaper, ladder, NULL), DIRTY_RING_ERROR_RUNNING, "stop it");
    vm_write(&vm, 0, 0, 700);
    CHECK(vm_pass(&vm) == DIRTY_RING_TURN_WAIT && vm.published == 700);
    vm_write(&vm, 1, 0, 10);
    CHECK(dirty_ring_reaper_stop(vm.reaper) == 0 && vm.wakes == 1);
    CHECK(vm_pass(&vm) == DIRTY_RING_TURN_DONE && vm.deadline_us == DIRTY_RING_NEVER);
    CHECK(vm.published == 710);
    FAILS(vm_turn(&vm), DIRTY_RING_ERROR_STOPPED, "resume");

    // While it is stopped, rings and slots are still there, and a kick is harmless.
    CHECK(dirty_ring_reaper_kick(vm.reaper) == 0);
    vm_write(&vm, 0, 0, 300);
    CHECK(dirty_ring_reaper_ring_full(vm.reaper, 0, 200, vm.now_us, &report) == 0);
    CHECK(report.harvested == 200 && report.settled == 1 && vm.published == 910);
    vm_write(&vm, 1, 0, 10);
    CHECK(vm_drain(&vm) == DIRTY_RING_TURN_DONE && vm.published == 1020);

    CHECK(dirty_ring_reaper_planner_state(vm.reaper, &state) == 0 && state.passes == 2);
    FAILS(dirty_ring_reaper_resume(vm.reaper, seed, &state), DIRTY_RING_ERROR_STATE, "another policy");
    CHECK(dirty_ring_reaper_resume(vm.reaper, seed, NULL) == 0);
    vm.deadline_us = 0;
    vm_write(&vm, 0, 0, 5);
    CHECK(vm_pass(&vm) == DIRTY_RING_TURN_WAIT && vm.published == 1020);
    CHECK(vm_pass(&vm) == DIRTY_RING_TURN_WAIT && vm.published == 1025);
    CHECK(dirty_ring_controller_free(ladder) == 0 && dirty_ring_controller_free(seed) == 0);
    vm_free(&vm);
}

static void a_drain_takes_all_and_its_struct_can_be_used_again(void)
{
    struct vm vm;
    struct dirty_ring_drain drain, zero = { 0, 0, 0 };
    vm_init(&vm, "deadline");
    memset(&drain, 0x5a, sizeof drain);
    FAILS(dirty_ring_reaper_drain(vm.reaper, &drain, 0), DIRTY_RING_ERROR_NO_SUCH_RING, "set its struct to 0");
    drain = zero;
    for (int round = 0; round < 3; round++) {
        vm.published = 0;
        vm_write(&vm, 0, 0, 900);
        vm_write(&vm, 1, 0, 900);
        CHECK(dirty_ring_reaper_drain(vm.reaper, &drain, 0) == DIRTY_RING_TURN_DONE);
        CHECK(vm.published == 1800 && memcmp(&drain, &zero, sizeof drain) == 0);
    }
    vm_free(&vm);
}

static void a_kick_takes_all_and_a_notification_what_can_not_wait(void)
{
    struct vm vm;
    struct dirty_ring_pass pass;
    vm_init(&vm, "deadline");
    CHECK(dirty_ring_reaper_last_pass(vm.reaper, &pass) == 0 && pass.number == 0);
    CHECK(vm_turn(&vm) == DIRTY_RING_TURN_WAIT);
    vm_write(&vm, 0, 0, 10);
    vm.deadline_us = vm.now_us + 1;
    CHECK(dirty_ring_reaper_notify_ring_full(vm.reaper) == 0);
    CHECK(vm_pass(&vm) == DIRTY_RING_TURN_WAIT && vm.published == 0);
    CHECK(dirty_ring_reaper_last_pass(vm.reaper, &pass) == 0 && pass.number == 1);
    CHECK(pass.found.wakes == DIRTY_RING_WAKE_RING_FULL && pass.found.harvested == 0);
    vm.deadline_us = vm.now_us + 1;
    CHECK(dirty_ring_reaper_kick(vm.reaper) == 0);
    CHECK(vm_pass(&vm) == DIRTY_RING_TURN_WAIT && vm.published == 10);
    CHECK(dirty_ring_reaper_last_pass(vm.reaper, &pass) == 0 && pass.number == 2);
    CHECK(pass.found.wakes == DIRTY_RING_WAKE_KICK && pass.found.harvested == 10);
    vm_free(&vm);
}

// Steps of a guest that dirties a few hundred pages between two passes.
static void load(struct vm *vm, int steps, uint64_t *page)
{
    for (int step = 0; step < steps; step++) {
        for (int vcpu = 0; vcpu < VCPUS; vcpu++)
            vm_write(vm, vcpu, *page % 5000, 150 + 50 * (unsigned)vcpu);
        *page += 170;
        CHECK(vm_pass(vm) == DIRTY_RING_TURN_WAIT);
    }
}

// Replaces the reaper of `vm` by another one, from the saved state.
static void replace(struct vm *vm, const char *policy)
{
    struct dirty_ring_controller *controller = vm_controller(vm, policy);
    struct dirty_ring_ring_state rings[VCPUS];
    struct dirty_ring_planner_state planner, again;
    for (uint32_t vcpu = 0; vcpu < VCPUS; vcpu++)
        CHECK(dirty_ring_reaper_ring_state(vm->reaper, vcpu, vm->now_us, &rings[vcpu]) == 0);
    CHECK(dirty_ring_reaper_planner_state(vm->reaper, &planner) == 0);
    CHECK(dirty_ring_reaper_free(vm->reaper) == 0);
    vm_reaper(vm, policy);
    for (int vcpu = 0; vcpu < VCPUS; vcpu++) {
        struct ring *ring = &vm->rings[vcpu];
        CHECK(rings[vcpu].position == ring->dirty_index);
        FAILS(dirty_ring_reaper_add_ring(vm->reaper, ring->entries, ring->size, NULL, vm->now_us),
              DIRTY_RING_ERROR_RING, "saved state");
        CHECK(dirty_ring_reaper_add_ring(vm->reaper, ring->entries, ring->size, &rings[vcpu],
                                         vm->now_us) == vcpu);
    }
    CHECK(dirty_ring_reaper_resume(vm->reaper, controller, &planner) == 0);
    CHECK(dirty_ring_reaper_planner_state(vm->reaper, &again) == 0);
    CHECK(memcmp(&planner, &again, sizeof planner) == 0);
    CHECK(dirty_ring_controller_free(controller) == 0);
    // A resumed reaper takes its first pass at once.
    vm->deadline_us = 0;
    CHECK(vm_turn(vm) == DIRTY_RING_TURN_AGAIN);
}

static void a_saved_state_goes_on_as_the_reaper_would_have(void)
{
    const char *policies[] = { "deadline", "ladder", "seed", "halving", "fixed:10ms" };
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        struct vm vm;
        struct dirty_ring_pass pass;
        uint64_t page = 0, passes;
        vm_init(&vm, policies[i]);
        load(&vm, 30, &page);
        passes = vm_totals(&vm).passes;
        CHECK(dirty_ring_reaper_kick(vm.reaper) == 0 && vm_pass(&vm) == DIRTY_RING_TURN_WAIT);
        replace(&vm, policies[i]);
        load(&vm, 30, &page);
        CHECK(dirty_ring_reaper_last_pass(vm.reaper, &pass) == 0 && pass.number > passes + 30);
        CHECK(vm_drain(&vm) == DIRTY_RING_TURN_DONE);
        // 60 steps of both vCPUs.
        CHECK(vm.published == 60 * 350);
        vm_free(&vm);
    }
}

static void a_ring_can_be_added_while_the_reaper_waits(void)
{
    struct vm vm;
    uint64_t wakes;
    vm_init(&vm, "deadline");
    struct ring *third = &vm.rings[VCPUS];
    ring_init(third, vm.size.entries, vm.size.soft_limit);
    // With idle rings the waits grow.
    for (int passes = 0; passes < 40; passes++)
        CHECK(vm_pass(&vm) == DIRTY_RING_TURN_WAIT);
    CHECK(vm.deadline_us - vm.now_us > 10000);
    wakes = vm.wakes;
    CHECK(dirty_ring_reaper_add_ring(vm.reaper, third->entries, third->size, NULL, vm.now_us) == VCPUS);
    CHECK(vm.wakes == wakes + 1);
    vm.deadline_us = vm.now_us + 1;
    CHECK(vm_pass(&vm) == DIRTY_RING_TURN_WAIT && vm.deadline_us - vm.now_us < 10000);
    vm_write(&vm, VCPUS, 0, 900);
    CHECK(vm_pass(&vm) == DIRTY_RING_TURN_WAIT && vm.published == 900);
    vm_free(&vm);
}

int main(void)
{
    a_stop_drains_the_rings_and_a_reaper_can_be_resumed();
    a_drain_takes_all_and_its_struct_can_be_used_again();
    a_kick_takes_all_and_a_notification_what_can_not_wait();
    a_saved_state_goes_on_as_the_reaper_would_have();
    a_ring_can_be_added_while_the_reaper_waits();
    return 0;
}
