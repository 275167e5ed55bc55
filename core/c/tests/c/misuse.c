// What is wrong with a call is found out, said, and changes nothing.

#include "vm.h"

static void null_pointers(void)
{
    struct vm vm;
    struct dirty_ring_controller *controller;
    struct dirty_ring_reaper *reaper;
    struct dirty_ring_deadline_options options = { 0, 0, 0 };
    struct dirty_ring_measurement found = { 0 };
    struct dirty_ring_decision decision;
    struct dirty_ring_drain drain = { 0, 0, 0 };
    struct dirty_ring_ring_full report;
    struct dirty_ring_totals totals;
    struct dirty_ring_figures figures;
    struct dirty_ring_pass pass;
    struct dirty_ring_ring_state ring_state;
    struct dirty_ring_planner_state planner_state;
    uint64_t deadline;
    const int null = DIRTY_RING_ERROR_NULL;

    vm_init(&vm, "ladder");
    FAILS(dirty_ring_size_check(NULL), null, "'size'");
    FAILS(dirty_ring_controller_new(NULL, &vm.size, &controller), null, "'policy'");
    CHECK(!controller);
    FAILS(dirty_ring_controller_new("seed", NULL, &controller), null, "'size'");
    FAILS(dirty_ring_controller_new("seed", &vm.size, NULL), null, "'controller'");
    FAILS(dirty_ring_controller_new_deadline(NULL, &vm.size, &controller), null, "'options'");
    FAILS(dirty_ring_controller_new_deadline(&options, NULL, &controller), null, "'size'");
    FAILS(dirty_ring_controller_new_deadline(&options, &vm.size, NULL), null, "'controller'");
    controller = vm_controller(&vm, "seed");
    FAILS(dirty_ring_controller_current(NULL, &decision), null, "'controller'");
    FAILS(dirty_ring_controller_current(controller, NULL), null, "'decision'");
    FAILS(dirty_ring_controller_on_reaped(NULL, &found, &decision), null, "'controller'");
    FAILS(dirty_ring_controller_on_reaped(controller, NULL, &decision), null, "'found'");
    FAILS(dirty_ring_controller_on_reaped(controller, &found, NULL), null, "'decision'");
    CHECK(dirty_ring_controller_free(NULL) == 0);

    FAILS(dirty_ring_reaper_new(1, NULL, &vm.size, &vm.callbacks, &reaper), null, "'controller'");
    FAILS(dirty_ring_reaper_new(1, controller, NULL, &vm.callbacks, &reaper), null, "'size'");
    FAILS(dirty_ring_reaper_new(1, controller, &vm.size, NULL, &reaper), null, "'callbacks'");
    FAILS(dirty_ring_reaper_new(1, controller, &vm.size, &vm.callbacks, NULL), null, "'reaper'");
    struct dirty_ring_callbacks callbacks = { &vm, NULL, vm_publish, vm_publish_slot, NULL };
    FAILS(dirty_ring_reaper_new(1, controller, &vm.size, &callbacks, &reaper), null, "callbacks->reset");
    callbacks = (struct dirty_ring_callbacks){ &vm, vm_reset, NULL, vm_publish_slot, NULL };
    FAILS(dirty_ring_reaper_new(1, controller, &vm.size, &callbacks, &reaper), null, "callbacks->publish'");
    callbacks = (struct dirty_ring_callbacks){ &vm, vm_reset, vm_publish, NULL, NULL };
    FAILS(dirty_ring_reaper_new(1, controller, &vm.size, &callbacks, &reaper), null, "publish_slot");
    CHECK(!reaper);
    CHECK(dirty_ring_reaper_free(NULL) == 0);

    FAILS(dirty_ring_reaper_add_slot(NULL, 0, 1), null, "'reaper'");
    FAILS(dirty_ring_reaper_remove_slot(NULL, 0), null, "'reaper'");
    FAILS(dirty_ring_reaper_slot_logged_anew(NULL, 0), null, "'reaper'");
    FAILS(dirty_ring_reaper_add_ring(NULL, vm.rings[0].entries, 1024, NULL, 0), null, "'reaper'");
    FAILS(dirty_ring_reaper_add_ring(vm.reaper, NULL, 1024, NULL, 0), null, "'entries'");
    FAILS(dirty_ring_reaper_turn(NULL, 0, &deadline), null, "'reaper'");
    FAILS(dirty_ring_reaper_turn(vm.reaper, 0, NULL), null, "'deadline_us'");
    FAILS(dirty_ring_reaper_ring_full(NULL, 0, 1, 0, &report), null, "'reaper'");
    FAILS(dirty_ring_reaper_ring_full(vm.reaper, 0, 1, 0, NULL), null, "'report'");
    FAILS(dirty_ring_reaper_kick(NULL), null, "'reaper'");
    FAILS(dirty_ring_reaper_notify_ring_full(NULL), null, "'reaper'");
    FAILS(dirty_ring_reaper_stop(NULL), null, "'reaper'");
    FAILS(dirty_ring_reaper_drain(NULL, &drain, 0), null, "'reaper'");
    FAILS(dirty_ring_reaper_drain(vm.reaper, NULL, 0), null, "'drain'");
    FAILS(dirty_ring_reaper_check(NULL), null, "'reaper'");
    FAILS(dirty_ring_reaper_retry_publish(NULL), null, "'reaper'");
    FAILS(dirty_ring_reaper_begin_resync(NULL), null, "'reaper'");
    FAILS(dirty_ring_reaper_end_resync(NULL, 0), null, "'reaper'");
    FAILS(dirty_ring_reaper_totals(NULL, &totals), null, "'reaper'");
    FAILS(dirty_ring_reaper_totals(vm.reaper, NULL), null, "'totals'");
    FAILS(dirty_ring_reaper_ring_figures(NULL, 0, &figures), null, "'reaper'");
    FAILS(dirty_ring_reaper_ring_figures(vm.reaper, 0, NULL), null, "'figures'");
    FAILS(dirty_ring_reaper_last_pass(NULL, &pass), null, "'reaper'");
    FAILS(dirty_ring_reaper_last_pass(vm.reaper, NULL), null, "'pass'");
    FAILS(dirty_ring_reaper_ring_state(NULL, 0, 0, &ring_state), null, "'reaper'");
    FAILS(dirty_ring_reaper_ring_state(vm.reaper, 0, 0, NULL), null, "'state'");
    FAILS(dirty_ring_reaper_planner_state(NULL, &planner_state), null, "'reaper'");
    FAILS(dirty_ring_reaper_planner_state(vm.reaper, NULL), null, "'state'");
    FAILS(dirty_ring_reaper_unpublished(NULL, NULL, 0), null, "'reaper'");
    FAILS(dirty_ring_reaper_unpublished(vm.reaper, NULL, 1), null, "'pages'");
    FAILS(dirty_ring_reaper_suspects(NULL, NULL, 0), null, "'reaper'");
    FAILS(dirty_ring_reaper_suspects(vm.reaper, NULL, 1), null, "'pages'");
    FAILS(dirty_ring_reaper_resume(NULL, controller, NULL), null, "'reaper'");
    FAILS(dirty_ring_reaper_resume(vm.reaper, NULL, NULL), null, "'controller'");
    CHECK(dirty_ring_controller_free(controller) == 0);
    vm_free(&vm);
}

static void sizes(void)
{
    const struct {
        uint32_t entries, log;
        const char *words;
    } wrong[] = {
        { 0, 0, "power of two" }, { 4095, 0, "power of two" }, { 128, 0, "one page" },
        { 131072, 0, "at most" }, { 512, 512, "reserve" },     { 1024, UINT32_MAX, "reserve" },
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct dirty_ring_controller *controller;
        struct dirty_ring_size size = { wrong[i].entries, 4096, wrong[i].log, 7, 8 };
        FAILS(dirty_ring_size_check(&size), DIRTY_RING_ERROR_SIZE, wrong[i].words);
        CHECK(size.soft_limit == 7 && size.bytes == 8);
        FAILS(dirty_ring_controller_new("seed", &size, &controller), DIRTY_RING_ERROR_SIZE, wrong[i].words);
    }
}

static void controllers(const struct dirty_ring_size *size)
{
    const char *wrong[][2] = {
        { "", "choose seed" },        { "fastest", "choose seed" }, { "fixed", "needs" },
        { "fixed:", "length" },       { "fixed:0s", "fixed" },      { "fixed:10", "unit" },
        { "ladder:1s", "no argument" }, { "Seed", "choose" },       { "\xff\xfe", "UTF-8" },
    };
    struct dirty_ring_controller *controller;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        FAILS(dirty_ring_controller_new(wrong[i][0], size, &controller), DIRTY_RING_ERROR_POLICY, wrong[i][1]);
        CHECK(!controller);
    }
    struct dirty_ring_deadline_options no_rate = { 0, 0, 100 }, too_fast = { 0, 1000000000, 1000 };
    FAILS(dirty_ring_controller_new_deadline(&no_rate, size, &controller), DIRTY_RING_ERROR_POLICY, "rate");
    FAILS(dirty_ring_controller_new_deadline(&too_fast, size, &controller), DIRTY_RING_ERROR_POLICY, "small");
    struct dirty_ring_deadline_options sound = { 50000, 100000, 1000 };
    struct dirty_ring_decision decision;
    CHECK(dirty_ring_controller_new_deadline(&sound, size, &controller) == 0);
    CHECK(dirty_ring_controller_current(controller, &decision) == 0);
    CHECK(decision.wait_us > 0 && decision.wait_us <= 50000 && decision.level == DIRTY_RING_NO_LEVEL);
    CHECK(dirty_ring_controller_free(controller) == 0);
}

static void rings_and_slots(void)
{
    struct vm vm;
    struct kvm_dirty_gfn *fresh = calloc(1024, sizeof *fresh), *first;
    struct dirty_ring_ring_state saved = { 0 };
    struct dirty_ring_figures figures;
    struct dirty_ring_ring_full report;
    const int wrong = DIRTY_RING_ERROR_RING;

    vm_init(&vm, "deadline");
    first = vm.rings[0].entries;
    FAILS(dirty_ring_reaper_add_ring(vm.reaper, fresh, 512, NULL, 0), wrong, "another size");
    FAILS(dirty_ring_reaper_add_ring(vm.reaper, fresh, UINT32_MAX, NULL, 0), wrong, "another size");
    FAILS(dirty_ring_reaper_add_ring(vm.reaper, (void *)((char *)fresh + 1), 1024, NULL, 0), wrong, "mmap");
    FAILS(dirty_ring_reaper_add_ring(vm.reaper, first, 1024, NULL, 0), wrong, "another ring");
    fresh[5].flags = KVM_DIRTY_GFN_F_RESET;
    FAILS(dirty_ring_reaper_add_ring(vm.reaper, fresh, 1024, NULL, 0), wrong, "saved state");
    fresh[5].flags = KVM_DIRTY_GFN_F_DIRTY;
    saved.position = 7;
    FAILS(dirty_ring_reaper_add_ring(vm.reaper, fresh, 1024, &saved, 0), wrong, "saved state");
    saved.recurrence_score = 1000;
    FAILS(dirty_ring_reaper_add_ring(vm.reaper, fresh, 1024, &saved, 0), DIRTY_RING_ERROR_STATE, "fit");
    FAILS(dirty_ring_reaper_ring_figures(vm.reaper, 2, &figures), DIRTY_RING_ERROR_NO_SUCH_RING, "has 2");
    FAILS(dirty_ring_reaper_ring_full(vm.reaper, 2, 1, 0, &report), DIRTY_RING_ERROR_NO_SUCH_RING, "has 2");

    FAILS(dirty_ring_reaper_add_slot(vm.reaper, 9, 0), DIRTY_RING_ERROR_SLOT, "no pages");
    FAILS(dirty_ring_reaper_add_slot(vm.reaper, SLOT, 5), DIRTY_RING_ERROR_SLOT, "already");
    FAILS(dirty_ring_reaper_remove_slot(vm.reaper, 0x10009), DIRTY_RING_ERROR_SLOT, "slot 9 of address space 1");
    FAILS(dirty_ring_reaper_slot_logged_anew(vm.reaper, 9), DIRTY_RING_ERROR_SLOT, "not registered");

    // None of it has left a trace.
    vm_write(&vm, 0, 0, 10);
    CHECK(vm_drain(&vm) == DIRTY_RING_TURN_DONE && vm.published == 10);
    vm_free(&vm);
    free(fresh);
}

static void versions(void)
{
    struct vm vm;
    struct dirty_ring_reaper *reaper;
    vm_init(&vm, "ladder");
    struct dirty_ring_controller *controller = vm_controller(&vm, "ladder");
    FAILS(dirty_ring_reaper_new(DIRTY_RING_ABI + 1, controller, &vm.size, &vm.callbacks, &reaper),
          DIRTY_RING_ERROR_ABI, "version 2");
    CHECK(!reaper && dirty_ring_controller_free(controller) == 0);
    vm_free(&vm);
}

int main(void)
{
    struct dirty_ring_size size = { .entries = 1024, .page_bytes = 4096 };
    CHECK(*dirty_ring_error_text() == 0);
    null_pointers();
    sizes();
    controllers(&size);
    rings_and_slots();
    versions();
    return 0;
}
