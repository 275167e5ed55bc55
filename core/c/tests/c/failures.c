// Callbacks that fail, and callbacks that call back; failures that end the reaping, and how it goes on.

#include "vm.h"

// How often the calls from inside a reset were made.
static int calls_from_inside;

static void call_back(struct vm *vm)
{
    struct dirty_ring_totals totals;
    struct dirty_ring_ring_full report;
    uint64_t deadline;
    const int busy = DIRTY_RING_ERROR_BUSY;
    calls_from_inside++;
    FAILS(dirty_ring_reaper_turn(vm->reaper, 0, &deadline), busy, "callback");
    FAILS(dirty_ring_reaper_ring_full(vm->reaper, 0, 1, 0, &report), busy, "callback");
    FAILS(dirty_ring_reaper_totals(vm->reaper, &totals), busy, "callback");
    FAILS(dirty_ring_reaper_begin_resync(vm->reaper), busy, "callback");
    FAILS(dirty_ring_reaper_free(vm->reaper), busy, "callback");
    CHECK(vm_drain(vm) == busy);
    // These are for any thread at any time.
    CHECK(dirty_ring_reaper_kick(vm->reaper) == 0);
    CHECK(dirty_ring_reaper_notify_ring_full(vm->reaper) == 0);
}

static void a_callback_that_calls_back_is_refused(void)
{
    struct vm vm;
    vm_init(&vm, "fixed:10ms");
    vm_write(&vm, 0, 0, 10);
    CHECK(vm_pass(&vm) == DIRTY_RING_TURN_WAIT);
    vm.inside = call_back;
    CHECK(vm_pass(&vm) == DIRTY_RING_TURN_WAIT);
    CHECK(calls_from_inside == 1 && vm.wakes == 2 && vm.published == 10);
    vm_free(&vm);
}

// Checks that a failure that ended the reaping is what every call returns from now on.
static void check_kept(struct vm *vm, int code, const char *words)
{
    struct dirty_ring_ring_full report;
    FAILS(vm_pass(vm), code, words);
    FAILS(vm_drain(vm), code, words);
    FAILS(dirty_ring_reaper_check(vm->reaper), code, words);
    FAILS(dirty_ring_reaper_ring_full(vm->reaper, 0, 1, vm->now_us, &report), code, words);
}

static void resync(struct vm *vm)
{
    uint64_t published;
    vm->counted_as_dirty = 0;
    CHECK(dirty_ring_reaper_begin_resync(vm->reaper) == 0);
    check_kept(vm, DIRTY_RING_ERROR_RESYNCING, "resync");
    CHECK(dirty_ring_reaper_end_resync(vm->reaper, vm->now_us) == 0);
    CHECK(vm->counted_as_dirty == PAGES);
    // From here on nothing is lost again, and the reaper works as before.
    published = vm->published;
    vm_write(vm, 0, 100, 50);
    vm_write(vm, 1, 200, 50);
    CHECK(vm_drain(vm) == DIRTY_RING_TURN_DONE && vm->published == published + 100);
    vm_write(vm, 0, 300, 10);
    CHECK(dirty_ring_reaper_kick(vm->reaper) == 0);
    CHECK(vm_pass(vm) == DIRTY_RING_TURN_WAIT && vm->published == published + 110);
    CHECK(dirty_ring_reaper_check(vm->reaper) == 0);
}

static void a_failed_reset_is_kept_until_a_resync(void)
{
    const struct {
        int returned, code;
        const char *words;
    } wrong[] = {
        { -EFAULT, DIRTY_RING_ERROR_RESET, "Bad address" },
        { INT32_MIN, DIRTY_RING_ERROR_RESET, "returned -2147483648" },
        { 11, DIRTY_RING_ERROR_FOREIGN_RESET, "only 10 were harvested" },
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct vm vm;
        vm_init(&vm, "fixed:10ms");
        CHECK(vm_pass(&vm) == DIRTY_RING_TURN_WAIT);
        vm_write(&vm, 0, 0, 10);
        vm.reset_fails = wrong[i].returned;
        FAILS(vm_pass(&vm), wrong[i].code, wrong[i].words);
        vm.reset_fails = 0;
        check_kept(&vm, wrong[i].code, wrong[i].words);
        CHECK(vm.published == 0);
        resync(&vm);
        vm_free(&vm);
    }
}

static void a_failed_publication_is_repeated(void)
{
    struct vm vm;
    struct dirty_ring_page pages[4];
    vm_init(&vm, "fixed:10ms");
    CHECK(vm_pass(&vm) == DIRTY_RING_TURN_WAIT);
    vm_write(&vm, 0, 0, 10);
    vm.publish_fails = -ENOSPC;
    FAILS(vm_drain(&vm), DIRTY_RING_ERROR_PUBLISH, "No space");
    vm.publish_fails = 0;
    check_kept(&vm, DIRTY_RING_ERROR_PUBLISH, "No space");
    CHECK(vm_totals(&vm).unpublished == 10 && vm_totals(&vm).outstanding == 0);
    CHECK(dirty_ring_reaper_unpublished(vm.reaper, NULL, 0) == 10);
    CHECK(dirty_ring_reaper_unpublished(vm.reaper, pages, 4) == 10);
    for (uint64_t i = 0; i < 4; i++)
        CHECK(pages[i].slot == SLOT && pages[i].offset == i);
    CHECK(dirty_ring_reaper_retry_publish(vm.reaper) == 0);
    CHECK(vm_drain(&vm) == DIRTY_RING_TURN_DONE && vm.published == 10);
    vm_free(&vm);
}

static void an_overrun_is_found_and_mended(void)
{
    struct vm vm;
    struct dirty_ring_ring_full report;
    int failed = 0;
    vm_init(&vm, "fixed:10ms");
    CHECK(vm_pass(&vm) == DIRTY_RING_TURN_WAIT);
    // KVM has gone once round the ring more than the entries show, as after an overrun of which each entry
    // was harvested once: its index has parted from them, and nothing looks odd.
    vm_write(&vm, 0, 0, 960);
    CHECK(vm_drain(&vm) == DIRTY_RING_TURN_DONE && vm.published == 960);
    vm.rings[0].dirty_index += vm.rings[0].size;
    for (int exits = 0; exits < 20 && !failed; exits++) {
        CHECK(ring_is_full(&vm.rings[0]));
        failed = dirty_ring_reaper_ring_full(vm.reaper, 0, DIRTY_RING_CHUNK, vm.now_us, &report);
    }
    CHECK(failed == DIRTY_RING_ERROR_OVERRUN && strstr(dirty_ring_error_text(), "resync"));
    check_kept(&vm, DIRTY_RING_ERROR_OVERRUN, "overrun");
    resync(&vm);
    vm_free(&vm);
}

static void a_page_of_no_slot_is_lost_and_told(void)
{
    struct vm vm;
    struct dirty_ring_figures figures;
    vm_init(&vm, "fixed:10ms");
    ring_push(&vm.rings[1], SLOT, PAGES);
    vm_write(&vm, 1, 0, 5);
    FAILS(vm_drain(&vm), DIRTY_RING_ERROR_BAD_ENTRIES, "page 10000 of slot 3");
    CHECK(vm.published == 5);
    CHECK(dirty_ring_reaper_ring_figures(vm.reaper, 1, &figures) == 0);
    CHECK(figures.bad_entries == 1 && figures.harvested == 6 && figures.occupancy == 0);
    // The guest goes on, and so does the reaper; only drains tell.
    CHECK(vm_pass(&vm) == DIRTY_RING_TURN_WAIT && vm_pass(&vm) == DIRTY_RING_TURN_WAIT);
    FAILS(vm_drain(&vm), DIRTY_RING_ERROR_BAD_ENTRIES, "register every memory slot");
    vm_free(&vm);
}

static void a_removed_slot_loses_nothing(void)
{
    struct vm vm;
    struct dirty_ring_figures figures;
    vm_init(&vm, "fixed:10ms");
    CHECK(dirty_ring_reaper_add_slot(vm.reaper, 8, 100) == 0);
    CHECK(vm_drain(&vm) == DIRTY_RING_TURN_DONE);
    CHECK(dirty_ring_reaper_remove_slot(vm.reaper, 8) == 0);
    ring_push(&vm.rings[0], 8, 1);
    CHECK(vm_drain(&vm) == DIRTY_RING_TURN_DONE && vm.published == 0);
    CHECK(dirty_ring_reaper_ring_figures(vm.reaper, 0, &figures) == 0);
    CHECK(figures.late_entries == 1 && figures.bad_entries == 0);
    vm_free(&vm);
}

static void suspects_are_published_until_their_slot_is_logged_anew(void)
{
    struct vm vm;
    struct dirty_ring_page pages[16];
    vm_init(&vm, "fixed:10ms");
    vm_write(&vm, 0, 500, 10);
    vm.maybe_interrupted = 1;
    CHECK(vm_drain(&vm) == DIRTY_RING_TURN_DONE);
    CHECK(dirty_ring_reaper_suspects(vm.reaper, pages, 16) == 10 && pages[9].offset == 509);
    CHECK(vm.published == 20 && vm_totals(&vm).maybe_interrupted_resets == 1);
    CHECK(vm_drain(&vm) == DIRTY_RING_TURN_DONE && vm.published == 30);
    CHECK(dirty_ring_reaper_slot_logged_anew(vm.reaper, SLOT) == 0);
    CHECK(vm_drain(&vm) == DIRTY_RING_TURN_DONE && vm.published == 30);
    vm_free(&vm);
}

int main(void)
{
    a_callback_that_calls_back_is_refused();
    a_failed_reset_is_kept_until_a_resync();
    a_failed_publication_is_repeated();
    an_overrun_is_found_and_mended();
    a_page_of_no_slot_is_lost_and_told();
    a_removed_slot_loses_nothing();
    suspects_are_published_until_their_slot_is_logged_anew();
    return 0;
}
