// Two vCPU threads, a reaper thread that sleeps at an eventfd, and a main thread that kicks, drains and
// stops: no page is lost, and calls that forgot the lock are refused.
//
// usage: threads WRITES

#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "vm.h"

struct guest {
    struct vm vm;
    // The caller's lock around the library.
    pthread_mutex_t lock;
    // KVM's: a page fault and a reset exclude each other.
    pthread_mutex_t mmu;
    int event_fd;
    uint64_t writes;
    uint8_t is_writable[PAGES];
    // What the guest wrote, and what a consumer has read after publication.
    uint64_t memory[PAGES], copy[PAGES];
};

static uint64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static int reset(void *user, int *maybe_interrupted)
{
    struct guest *guest = user;
    int count = 0;
    (void)maybe_interrupted;
    pthread_mutex_lock(&guest->mmu);
    for (int vcpu = 0; vcpu < VCPUS; vcpu++) {
        struct ring *ring = &guest->vm.rings[vcpu];
        for (uint32_t at = ring->reset_index;; at++) {
            struct kvm_dirty_gfn *entry = &ring->entries[at & (ring->size - 1)];
            if (!(__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_RESET))
                break;
            guest->is_writable[entry->offset] = 0;
        }
        count += ring_reset(ring);
    }
    pthread_mutex_unlock(&guest->mmu);
    return count;
}

static int publish(void *user, const struct dirty_ring_page *pages, size_t count)
{
    struct guest *guest = user;
    for (size_t i = 0; i < count; i++)
        guest->copy[pages[i].offset] =
            __atomic_load_n(&guest->memory[pages[i].offset], __ATOMIC_RELAXED);
    return 0;
}

static void wake(void *user)
{
    struct guest *guest = user;
    uint64_t one = 1;
    CHECK(write(guest->event_fd, &one, sizeof one) == sizeof one);
}

// Writes a page, which logs it if it is protected; returns 0 where the ring is full.
static int write_page(struct guest *guest, int vcpu, uint64_t page, uint64_t value)
{
    int is_in;
    pthread_mutex_lock(&guest->mmu);
    is_in = !ring_is_full(&guest->vm.rings[vcpu]);
    if (is_in) {
        if (!guest->is_writable[page])
            ring_push(&guest->vm.rings[vcpu], SLOT, page);
        guest->is_writable[page] = 1;
        __atomic_store_n(&guest->memory[page], value, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&guest->mmu);
    return is_in;
}

static void run_vcpu(struct guest *guest, int vcpu)
{
    uint64_t random = 12345 + (uint64_t)vcpu;
    for (uint64_t value = 1; value <= guest->writes; value++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        while (!write_page(guest, vcpu, (random >> 33) % PAGES, value * VCPUS + (uint64_t)vcpu)) {
            struct dirty_ring_ring_full report;
            pthread_mutex_lock(&guest->lock);
            int failed = dirty_ring_reaper_ring_full(guest->vm.reaper, (uint32_t)vcpu, DIRTY_RING_CHUNK,
                                                     now_us(), &report);
            pthread_mutex_unlock(&guest->lock);
            CHECK(failed == 0);
        }
    }
}

static void *first_vcpu(void *guest)
{
    run_vcpu(guest, 0);
    return NULL;
}

static void *second_vcpu(void *guest)
{
    run_vcpu(guest, 1);
    return NULL;
}

static void *reap(void *user)
{
    struct guest *guest = user;
    for (;;) {
        uint64_t deadline, unused;
        pthread_mutex_lock(&guest->lock);
        int turn = dirty_ring_reaper_turn(guest->vm.reaper, now_us(), &deadline);
        pthread_mutex_unlock(&guest->lock);
        CHECK(turn >= 0);
        if (turn == DIRTY_RING_TURN_DONE)
            return NULL;
        if (turn == DIRTY_RING_TURN_AGAIN)
            continue;
        struct pollfd event = { guest->event_fd, POLLIN, 0 };
        uint64_t now = now_us(), left = now < deadline ? deadline - now : 0;
        struct timespec timeout = { (time_t)(left / 1000000), (long)(left % 1000000) * 1000 };
        ppoll(&event, 1, deadline == DIRTY_RING_NEVER ? NULL : &timeout, NULL);
        if (event.revents)
            CHECK(read(guest->event_fd, &unused, sizeof unused) == sizeof unused);
    }
}

// Calls without the lock, while another thread is inside of a call.
static void *forget_the_lock(void *user)
{
    struct guest *guest = user;
    struct dirty_ring_totals totals;
    FAILS(dirty_ring_reaper_totals(guest->vm.reaper, &totals), DIRTY_RING_ERROR_BUSY, "lock");
    return NULL;
}

static void let_another_call(struct vm *vm)
{
    pthread_t thread;
    // The VM is the guest's first member.
    CHECK(pthread_create(&thread, NULL, forget_the_lock, vm) == 0 && pthread_join(thread, NULL) == 0);
    // That one's failure was on its own thread.
    CHECK(*dirty_ring_error_text() == 0);
}

static void drain(struct guest *guest)
{
    struct dirty_ring_drain drain = { 0, 0, 0 };
    int left;
    do {
        pthread_mutex_lock(&guest->lock);
        left = dirty_ring_reaper_drain(guest->vm.reaper, &drain, now_us());
        pthread_mutex_unlock(&guest->lock);
    } while (left == DIRTY_RING_TURN_AGAIN);
    CHECK(left == DIRTY_RING_TURN_DONE);
}

static void *run(void *user)
{
    struct guest *guest = user;
    pthread_t vcpus[VCPUS], reaper;

    // The common set-up has callbacks of its own: those of this test need a reaper of their own.
    vm_init(&guest->vm, "deadline");
    vm_write(&guest->vm, 0, 0, 1);
    guest->vm.inside = let_another_call;
    CHECK(vm_drain(&guest->vm) == DIRTY_RING_TURN_DONE);
    vm_free(&guest->vm);
    guest->vm.callbacks = (struct dirty_ring_callbacks){ guest, reset, publish, vm_publish_slot, wake };
    vm_reaper(&guest->vm, "deadline");
    for (int vcpu = 0; vcpu < VCPUS; vcpu++) {
        struct ring *ring = &guest->vm.rings[vcpu];
        ring_init(ring, guest->vm.size.entries, guest->vm.size.soft_limit);
        CHECK(dirty_ring_reaper_add_ring(guest->vm.reaper, ring->entries, ring->size, NULL, now_us()) == vcpu);
    }

    CHECK(pthread_create(&reaper, NULL, reap, guest) == 0);
    CHECK(pthread_create(&vcpus[0], NULL, first_vcpu, guest) == 0);
    CHECK(pthread_create(&vcpus[1], NULL, second_vcpu, guest) == 0);
    for (int round = 0; round < 20; round++) {
        CHECK(dirty_ring_reaper_kick(guest->vm.reaper) == 0);
        drain(guest);
    }
    CHECK(pthread_join(vcpus[0], NULL) == 0 && pthread_join(vcpus[1], NULL) == 0);
    CHECK(dirty_ring_reaper_stop(guest->vm.reaper) == 0);
    CHECK(pthread_join(reaper, NULL) == 0);

    struct dirty_ring_totals totals = vm_totals(&guest->vm);
    CHECK(totals.outstanding == 0 && totals.unpublished == 0 && totals.passes != 0);
    CHECK(memcmp(guest->memory, guest->copy, sizeof guest->copy) == 0);
    vm_free(&guest->vm);
    return NULL;
}

int main(int count, char **arguments)
{
    // A reaper is created on a stack of 1 MiB, as the header promises.
    static struct guest guest = { .lock = PTHREAD_MUTEX_INITIALIZER, .mmu = PTHREAD_MUTEX_INITIALIZER };
    pthread_attr_t attributes;
    pthread_t thread;
    CHECK(count == 2);
    guest.writes = strtoull(arguments[1], NULL, 10);
    guest.event_fd = eventfd(0, 0);
    CHECK(pthread_attr_init(&attributes) == 0 && pthread_attr_setstacksize(&attributes, 1 << 20) == 0);
    CHECK(pthread_create(&thread, &attributes, run, &guest) == 0 && pthread_join(thread, NULL) == 0);
    pthread_attr_destroy(&attributes);
    close(guest.event_fd);
    return 0;
}
