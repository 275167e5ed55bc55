// dirty_ring.h - reaps the dirty rings of KVM, for a virtual machine monitor in C.
//
// KVM logs the pages that a guest dirties into one ring per vCPU (Documentation/virt/kvm/api.rst, 8.29).
// A reaper harvests the entries, lets KVM reset them, which write-protects the pages again, and publishes
// the pages to whatever copies them. Reap too late, and a ring fills up and stalls its vCPU; reap too
// early, and the guest faults for the same pages again. This library decides when, and keeps the order:
// a page is published only after the reset that follows its harvest, or a write would be lost.
//
// It does no I/O. The monitor creates the vCPUs, enables and maps the rings, and owns the threads, the
// clock and the lock; the library reads the mapped rings and calls back for a reset and for pages.
//
//
// THE LIFE OF A REAPER
//
//   1. Choose a size: dirty_ring_size_check. Enable rings of that size (KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
//      or KVM_CAP_DIRTY_LOG_RING on x86) before the first vCPU, and mmap each vCPU's ring at page offset
//      KVM_DIRTY_LOG_PAGE_OFFSET of its file descriptor, shared, readable and writable. The largest ring
//      that the host offers is a good choice: a working set that doesn't fit faults all the time.
//   2. Choose a controller, which decides how long to wait: dirty_ring_controller_new.
//   3. Create the reaper, and tell it of every slot and ring: dirty_ring_reaper_new,
//      dirty_ring_reaper_add_slot, dirty_ring_reaper_add_ring.
//   4. Take turns until the reaper is done: dirty_ring_reaper_turn. Each vCPU that leaves KVM_RUN with
//      KVM_EXIT_DIRTY_RING_FULL calls dirty_ring_reaper_ring_full and goes back in.
//   5. When every page is needed, as at the end of a migration: kick all vCPUs out of KVM_RUN once, then
//      dirty_ring_reaper_drain. A vCPU may have made a page writable and not logged it yet.
//   6. dirty_ring_reaper_stop, and turns until DIRTY_RING_TURN_DONE. From there the reaper can be
//      resumed, or its state be saved, or dirty_ring_reaper_free; only then unmap the rings.
//
// A reaper may live as long as its VM: with dirty_ring_reaper_resume it works again, and its rings and
// their positions stay. Forgetting a ring's position means to count all memory as dirty.
//
//
// EXAMPLE
//
// One slot, number 0, with one bit a page. (The test suite compiles this text.)
//
//     #define _GNU_SOURCE
//     #include <dirty_ring.h>
//     #include <errno.h>
//     #include <linux/kvm.h>
//     #include <poll.h>
//     #include <pthread.h>
//     #include <signal.h>
//     #include <stdio.h>
//     #include <sys/ioctl.h>
//     #include <sys/resource.h>
//     #include <time.h>
//     #include <unistd.h>
//
//     struct vm {
//         int fd, event_fd; // event_fd: eventfd(0, EFD_NONBLOCK)
//         pthread_mutex_t lock;
//         uint64_t pages, *dirty;
//         struct dirty_ring_reaper *reaper;
//     };
//
//     static uint64_t now_us(void)
//     {
//         struct timespec now;
//         clock_gettime(CLOCK_MONOTONIC, &now);
//         return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
//     }
//
//     // No signal may interrupt a reset. One that can't be blocked (SIGSTOP, a debugger) makes the
//     // thread give up its CPU, and that is counted.
//     static int reset(void *user, int *maybe_interrupted)
//     {
//         struct vm *vm = user;
//         struct rusage before, after;
//         sigset_t all, mask;
//         sigfillset(&all);
//         pthread_sigmask(SIG_BLOCK, &all, &mask);
//         getrusage(RUSAGE_THREAD, &before);
//         int entries = ioctl(vm->fd, KVM_RESET_DIRTY_RINGS, 0);
//         int result = entries < 0 ? -errno : entries;
//         getrusage(RUSAGE_THREAD, &after);
//         pthread_sigmask(SIG_SETMASK, &mask, NULL);
//         *maybe_interrupted = before.ru_nvcsw != after.ru_nvcsw;
//         return result;
//     }
//
//     static int publish(void *user, const struct dirty_ring_page *pages, size_t count)
//     {
//         struct vm *vm = user;
//         for (size_t i = 0; i < count; i++)
//             vm->dirty[pages[i].offset / 64] |= UINT64_C(1) << (pages[i].offset % 64);
//         return 0;
//     }
//
//     static int publish_slot(void *user, uint32_t slot, uint64_t pages)
//     {
//         struct vm *vm = user;
//         for (uint64_t i = 0; i < pages; i++)
//             vm->dirty[i / 64] |= UINT64_C(1) << (i % 64);
//         return slot == 0 ? 0 : -EINVAL;
//     }
//
//     static void wake(void *user)
//     {
//         uint64_t one = 1; // a counter that is full has woken it already
//         struct vm *vm = user;
//         if (write(vm->event_fd, &one, sizeof one) < 0)
//             return;
//     }
//
//     // Creates the reaper of one vCPU, whose ring is mapped at `ring`.
//     int vm_track(struct vm *vm, struct kvm_dirty_gfn *ring, struct dirty_ring_size *size)
//     {
//         struct dirty_ring_controller *controller;
//         struct dirty_ring_callbacks callbacks = { vm, reset, publish, publish_slot, wake };
//         if (dirty_ring_size_check(size) < 0 ||
//             dirty_ring_controller_new("deadline", size, &controller) < 0)
//             return -1;
//         int failed = dirty_ring_reaper_new(DIRTY_RING_ABI, controller, size, &callbacks, &vm->reaper);
//         dirty_ring_controller_free(controller);
//         if (failed || dirty_ring_reaper_add_slot(vm->reaper, 0, vm->pages) < 0 ||
//             dirty_ring_reaper_add_ring(vm->reaper, ring, size->entries, NULL, now_us()) < 0) {
//             fprintf(stderr, "dirty ring: %s\n", dirty_ring_error_text());
//             return -1;
//         }
//         return 0;
//     }
//
//     // The reaper's thread.
//     void *vm_reap(void *user)
//     {
//         struct vm *vm = user;
//         for (;;) {
//             uint64_t deadline, now, unused;
//             pthread_mutex_lock(&vm->lock);
//             int turn = dirty_ring_reaper_turn(vm->reaper, now_us(), &deadline);
//             pthread_mutex_unlock(&vm->lock);
//             if (turn == DIRTY_RING_TURN_DONE)
//                 return NULL;
//             if (turn < 0) {
//                 fprintf(stderr, "dirty ring: %s\n", dirty_ring_error_text());
//                 return NULL;
//             }
//             if (turn == DIRTY_RING_TURN_AGAIN)
//                 continue;
//             struct pollfd event = { vm->event_fd, POLLIN, 0 };
//             uint64_t left = (now = now_us()) < deadline ? deadline - now : 0;
//             struct timespec timeout = { (time_t)(left / 1000000), (long)(left % 1000000) * 1000 };
//             ppoll(&event, 1, deadline == DIRTY_RING_NEVER ? NULL : &timeout, NULL);
//             if (event.revents && read(vm->event_fd, &unused, sizeof unused) < 0)
//                 continue;
//         }
//     }
//
//     // A vCPU's thread, after KVM_EXIT_DIRTY_RING_FULL. It can't go on where this fails.
//     int vm_ring_full(struct vm *vm, uint32_t vcpu)
//     {
//         struct dirty_ring_ring_full report;
//         pthread_mutex_lock(&vm->lock);
//         int failed = dirty_ring_reaper_ring_full(vm->reaper, vcpu, DIRTY_RING_CHUNK, now_us(), &report);
//         pthread_mutex_unlock(&vm->lock);
//         return failed;
//     }
//
//
// THREADS
//
// Calls on one handle must be serialised by a lock of the caller's, except for
//
//     dirty_ring_reaper_kick, dirty_ring_reaper_stop, dirty_ring_reaper_notify_ring_full,
//
// which any thread may make at any time, holding that lock or not: they are atomic additions, followed by
// the wake callback. Two other calls at once are found out, and the second one returns
// DIRTY_RING_ERROR_BUSY. Different handles are independent, and dirty_ring_error_text is per thread.
// dirty_ring_reaper_free has to be the last call of all, on any thread.
//
// The lock is held for one batch of 4096 pages at most. A mutex that isn't fair may go to the reaper batch
// after batch while a vCPU waits for it; a ticket lock keeps ring-full stalls short. No call blocks, but in a
// callback; no turn, ring-full or drain that succeeds allocates memory.
//
// The clock may be any that doesn't go back, the same for all calls on a handle.
//
// A reaper takes some 200 KiB of memory, which pass over the stack while it is created: do that with a stack
// of 1 MiB or more.
//
//
// CALLBACKS
//
// They run inside a call, on its thread, under the caller's lock; wake runs inside kick, stop and the
// notification as well. A callback must not call the library, and must neither throw nor longjmp. Any call
// but the three above returns DIRTY_RING_ERROR_BUSY there.
//
//
// ERRORS
//
// A function that returns int returns 0 or more where it succeeds, and a negative enum dirty_ring_error
// where it fails; dirty_ring_error_text then says what is wrong and what to do. What it was to fill in is
// as it was, and handles that were to be created are NULL. Checked are NULL, sizes, alignment, positions,
// slots, states and the order of calls. Not checked, and undefined, are a handle that was freed, and
// memory that isn't there or isn't what it is said to be.
//
// A failure that ends the reaping (from DIRTY_RING_ERROR_RESET to _RESYNCING) is kept: every later turn,
// ring-full and drain returns it, so that an incomplete log is not taken for a complete one. A failed
// publication is repeated after dirty_ring_reaper_retry_publish, the others end with a resynchronisation.
// Lost pages (_BAD_ENTRIES, _TOO_MANY_SUSPECTS) end nothing, but every drain and check returns them.
//
//
// UNITS
//
// Times are microseconds, sizes of rings are entries, sizes of slots are pages. Slots are numbered as in
// struct kvm_userspace_memory_region: the address space is in the upper 16 bits.

#ifndef DIRTY_RING_H
#define DIRTY_RING_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// The version of this interface, for dirty_ring_reaper_new.
#define DIRTY_RING_ABI 1
// Entries that a vCPU takes from its full ring; a usual number.
#define DIRTY_RING_CHUNK 256
// Instead of a number of entries: the whole of all rings, as QEMU does.
#define DIRTY_RING_WHOLE UINT32_MAX
// Entries of the CPU's own log on a host with Intel PML.
#define DIRTY_RING_PML_ENTRIES 512
// A deadline that never comes: only the wake callback ends the wait.
#define DIRTY_RING_NEVER UINT64_MAX
// The level of a controller without run levels.
#define DIRTY_RING_NO_LEVEL -1

enum dirty_ring_error {
    // A pointer that must not be NULL is.
    DIRTY_RING_ERROR_NULL = -1,
    // Header and library are of different versions.
    DIRTY_RING_ERROR_ABI = -2,
    // Another call on this handle is at work, on another thread or around a callback.
    DIRTY_RING_ERROR_BUSY = -3,
    // The library panicked, which is a bug in it. Count all memory as dirty; the handle can only be freed.
    DIRTY_RING_ERROR_PANICKED = -4,
    // KVM has no ring of this size.
    DIRTY_RING_ERROR_SIZE = -5,
    // There is no controller of this name or with these options.
    DIRTY_RING_ERROR_POLICY = -6,
    // The memory can't be that of a ring of this size in this position, or belongs to another ring.
    DIRTY_RING_ERROR_RING = -7,
    // There is no ring of this index.
    DIRTY_RING_ERROR_NO_SUCH_RING = -8,
    // The slot is registered already, has no pages, or isn't registered.
    DIRTY_RING_ERROR_SLOT = -9,
    // The saved state doesn't fit the controller.
    DIRTY_RING_ERROR_STATE = -10,
    // The reaper was stopped and is done.
    DIRTY_RING_ERROR_STOPPED = -11,
    // The reaper is at work: stop it first.
    DIRTY_RING_ERROR_RUNNING = -12,

    // The reset callback failed.
    DIRTY_RING_ERROR_RESET = -13,
    // A publish callback failed. The pages are kept.
    DIRTY_RING_ERROR_PUBLISH = -14,
    // More entries were reset than harvested here: something else harvests these rings.
    DIRTY_RING_ERROR_FOREIGN_RESET = -15,
    // Nothing is reset any more, although entries wait for it.
    DIRTY_RING_ERROR_STALLED = -16,
    // A ring has overrun: it is full, yet holds nothing to harvest or to reset.
    DIRTY_RING_ERROR_OVERRUN = -17,
    // A ring holds entries, but not where the next one is expected.
    DIRTY_RING_ERROR_PARTED = -18,
    // A resynchronisation was begun and not ended.
    DIRTY_RING_ERROR_RESYNCING = -19,

    // Entries named no registered page: those pages are lost.
    DIRTY_RING_ERROR_BAD_ENTRIES = -20,
    // Too many resets were interrupted: more pages than are remembered may be lost.
    DIRTY_RING_ERROR_TOO_MANY_SUSPECTS = -21,
    // A failure without a code of its own.
    DIRTY_RING_ERROR_UNKNOWN = -22,
};

// Returns the text of the last failure on this thread, at most 511 bytes of UTF-8; empty before any. It
// stays as it is until the next failure on this thread, and as long as the thread lives.
const char *dirty_ring_error_text(void);

// ---- Sizes ----

// The size of each ring of a VM. Fill in the first three, then call dirty_ring_size_check.
struct dirty_ring_size {
    // A power of two, at least one page of memory, at most 65536.
    uint32_t entries;
    // Bytes of a page of the host.
    uint32_t page_bytes;
    // DIRTY_RING_PML_ENTRIES on a host with Intel PML, which keeps so many more free; else 0.
    uint32_t cpu_log_entries;
    // Out: the entries at which KVM finds a ring full.
    uint32_t soft_limit;
    // Out: bytes of a ring, as KVM_ENABLE_CAP expects them, and mmap.
    uint32_t bytes;
};

// Checks a size and fills in what follows from it.
int dirty_ring_size_check(struct dirty_ring_size *size);

// ---- Controllers ----

// What decides when to reap. Reapers copy it. By itself it serves a monitor that has a reaper of its own:
// tell it what each pass found, and wait as long as it says.
struct dirty_ring_controller;

// Why the reaper woke, as bits.
enum dirty_ring_wake {
    DIRTY_RING_WAKE_TIMER = 1,
    DIRTY_RING_WAKE_KICK = 2,
    DIRTY_RING_WAKE_RING_FULL = 4,
    DIRTY_RING_WAKE_STOP = 8,
};

// Why a controller decided as it did, as bits.
enum dirty_ring_reason {
    // No measurement yet.
    DIRTY_RING_REASON_START = 1,
    // A ring was full since the last decision.
    DIRTY_RING_REASON_RING_FULL = 2,
    // The rings ask for a shorter wait, and get it.
    DIRTY_RING_REASON_FASTER = 4,
    // The rings ask for a longer wait, and get it.
    DIRTY_RING_REASON_SLOWER = 8,
    // The rings ask for a longer wait, and don't get it yet.
    DIRTY_RING_REASON_FILTERED = 16,
    // The rings ask for what they have.
    DIRTY_RING_REASON_KEEP = 32,
    // The shortest wait of the controller holds already.
    DIRTY_RING_REASON_AT_FASTEST = 64,
    // The longest wait of the controller holds already.
    DIRTY_RING_REASON_AT_SLOWEST = 128,
    // A ring would have been full before the next useful wake-up.
    DIRTY_RING_REASON_HEADROOM = 256,
    // Pages had waited for as long as they may, or were asked for.
    DIRTY_RING_REASON_FRESHNESS = 512,
    // A ring is left alone for as long as its recent rate allows; its peak would allow less.
    DIRTY_RING_REASON_CALM = 1024,
    // No page of a ring comes round within one ring: to reap it early costs nothing.
    DIRTY_RING_REASON_FREE = 2048,
};

// What one pass over all rings found.
struct dirty_ring_measurement {
    // From the beginning of the last pass (or from the start) to that of this one.
    uint64_t elapsed_us;
    // Pages that the pass harvested, all rings.
    uint64_t harvested;
    // Pages that ring-fulls harvested since the last pass, all rings.
    uint64_t ring_full_harvested;
    // The most entries that one ring gave since the last pass, by whatever path.
    uint32_t fullest;
    // Ring-fulls since the last pass.
    uint32_t ring_fulls;
    // Bits of enum dirty_ring_wake.
    uint32_t wakes;
    // From the planned wake-up to the real one.
    uint64_t late_us;
    // How long the pass took.
    uint64_t took_us;
};

struct dirty_ring_decision {
    // How long to wait until the next pass, at least 1; DIRTY_RING_NEVER: until something rings. A reaper
    // makes at least 100 of it.
    uint64_t wait_us;
    // The run level, from 0 for the longest wait to 5, or DIRTY_RING_NO_LEVEL.
    int level;
    // Bits of enum dirty_ring_reason.
    uint32_t reasons;
};

// Options of the controller "deadline". 0 means: no such option.
struct dirty_ring_deadline_options {
    // The longest time that a page may wait for its reap. It costs a fault for each page of the guest's
    // working set, once in that time, whether or not anybody reads so often.
    uint64_t freshness_us;
    // The pages per second that no ring exceeds, and the time after its planned wake-up within which each
    // pass is over. Under these bounds there is no ring-full, and nothing is learned.
    uint64_t assured_rate_per_s;
    uint64_t assured_latency_us;
};

// Creates a controller by its name:
//     deadline          waits as long as is safe; what to take unless you know better
//     deadline:TIME     the same, and no page waits longer than TIME
//     ladder            six run levels, from 1 s to 80 ms
//     seed              the run levels as they were proposed for QEMU in 2022
//     halving           the counter-proposal from that patch's review
//     fixed:TIME        one interval, as QEMU's second
// TIME is a number and its unit (h, m, s, ms, us), as in 10ms. `size` is that of the rings. "deadline"
// looks into the rings, so by itself, without a reaper, it has no use.
int dirty_ring_controller_new(const char *policy, const struct dirty_ring_size *size,
                              struct dirty_ring_controller **controller);

// Creates the controller "deadline" with options.
int dirty_ring_controller_new_deadline(const struct dirty_ring_deadline_options *options,
                                       const struct dirty_ring_size *size,
                                       struct dirty_ring_controller **controller);

// Frees a controller, at any time: reapers have copies. NULL is allowed.
int dirty_ring_controller_free(struct dirty_ring_controller *controller);

// Tells the decision that holds before the first pass.
int dirty_ring_controller_current(struct dirty_ring_controller *controller,
                                  struct dirty_ring_decision *decision);

// Decides on the next wait, after a pass of a reaper that isn't this library's.
int dirty_ring_controller_on_reaped(struct dirty_ring_controller *controller,
                                    const struct dirty_ring_measurement *found,
                                    struct dirty_ring_decision *decision);

// ---- Reapers ----

// The rings and slots of one VM, and the machine that reaps them. There must be one for each VM: two
// reapers of the same rings lose pages.
struct dirty_ring_reaper;

// An entry of a ring, from <linux/kvm.h>.
struct kvm_dirty_gfn;

// A dirty page.
struct dirty_ring_page {
    uint32_t slot;
    // The page inside the slot, in pages.
    uint64_t offset;
};

// What the monitor does for the library; all but wake are required.
struct dirty_ring_callbacks {
    // Handed to each callback.
    void *user;
    // Calls KVM_RESET_DIRTY_RINGS and returns how many entries that reset, or -errno. Fewer than were
    // harvested, even 0, are no error: an interrupted reset goes on with the next call. From Linux 6.17 on
    // a pending signal interrupts a reset, and up to 64 pages that it counted stay writable: block all
    // signals around it. Set *maybe_interrupted, which is 0, to 1 where something that can't be blocked may
    // have interrupted it; a count that is short needs no such mark.
    int (*reset)(void *user, int *maybe_interrupted);
    // Takes `count` pages whose reset is done, all of registered slots: their contents may be read from
    // now on. Returns 0, or -errno where it didn't take all of them; then all are offered again. A page
    // may come more than once.
    int (*publish)(void *user, const struct dirty_ring_page *pages, size_t count);
    // Counts all pages of a slot as dirty, at the end of a resynchronisation. Returns as publish does.
    int (*publish_slot)(void *user, uint32_t slot, uint64_t pages);
    // Makes whatever takes the turns take one now, as by a write to an eventfd. NULL where nothing waits.
    void (*wake)(void *user);
};

// What is left to do, after a turn or a batch of a drain.
enum dirty_ring_turn {
    // Nothing: it is over.
    DIRTY_RING_TURN_DONE = 0,
    // More: call again. Let go of the lock in between, for vCPUs on ring-full.
    DIRTY_RING_TURN_AGAIN = 1,
    // Nothing until the deadline, or until the wake callback is called.
    DIRTY_RING_TURN_WAIT = 2,
};

// Creates a reaper without rings. It copies all that it is given. `abi` is DIRTY_RING_ABI.
int dirty_ring_reaper_new(uint32_t abi, struct dirty_ring_controller *controller,
                          const struct dirty_ring_size *size,
                          const struct dirty_ring_callbacks *callbacks,
                          struct dirty_ring_reaper **reaper);

// Frees a reaper; harvested pages that were not published are lost with it. The rings' mappings and `user`
// must outlive it. NULL is allowed. In a callback it returns DIRTY_RING_ERROR_BUSY and frees nothing.
int dirty_ring_reaper_free(struct dirty_ring_reaper *reaper);

// Registers a memory slot whose pages are logged (KVM_MEM_LOG_DIRTY_PAGES). An entry that names another
// slot, or a page beyond the end of one, is a lost page.
int dirty_ring_reaper_add_slot(struct dirty_ring_reaper *reaper, uint32_t slot, uint64_t pages);

// Forgets a slot. Drain the rings, remove the slot from the VM and call this, all under the lock: an entry
// must not outlive the slot that it names. Entries that still name it later are dropped and counted.
int dirty_ring_reaper_remove_slot(struct dirty_ring_reaper *reaper, uint32_t slot);

// Notes that logging of a slot was switched on after it had been off, which protects all of its pages: its
// suspects are forgotten.
int dirty_ring_reaper_slot_logged_anew(struct dirty_ring_reaper *reaper, uint32_t slot);

// What has to be saved of a ring to go on with it in another reaper. Plain numbers of this version of the
// interface, to be stored as they are; only `position` has a meaning outside. Set all others to 0 where
// nothing but the position is known.
struct dirty_ring_ring_state {
    // Entries harvested since the ring was created, wrapping around: KVM's indices go on from there.
    uint32_t position;
    uint32_t known;
    uint64_t peak_per_s;
    uint64_t rate_per_s;
    uint64_t measured_for_us;
    uint64_t watched_for_us;
    uint64_t oldest_for_us;
    uint64_t full_for_us;
    uint32_t measured;
    uint32_t grown;
    uint64_t recurrence_offset;
    uint32_t recurrence_slot;
    uint32_t recurrence_distance;
    uint32_t recurrence_longest;
    int32_t recurrence_score;
};

// Adds the ring of the next vCPU and returns its index: the first one is 0. `entries` is where its `count`
// entries are mapped; they stay the caller's, who doesn't touch them until the reaper is freed. `saved` is
// NULL for a ring that was never harvested, else its saved state, or the position alone. Entries that were
// harvested and not reset before are taken over. Rings can be added at any time, and never be removed.
int dirty_ring_reaper_add_ring(struct dirty_ring_reaper *reaper, struct kvm_dirty_gfn *entries,
                               uint32_t count, const struct dirty_ring_ring_state *saved,
                               uint64_t now_us);

// ---- Reaping ----

// Takes a turn, which harvests, resets and publishes one batch at most; returns enum dirty_ring_turn. The
// first one starts the reaper. With DIRTY_RING_TURN_WAIT, *deadline_us is when to take the next one.
int dirty_ring_reaper_turn(struct dirty_ring_reaper *reaper, uint64_t now_us, uint64_t *deadline_us);

// What a ring-full did.
struct dirty_ring_ring_full {
    // Entries harvested, of all the rings that it took from.
    uint32_t harvested;
    // 1 where all that was harvested is reset and published; 0 where interrupted resets left a rest for the
    // next call. The vCPU may go on in either case.
    uint32_t settled;
};

// Makes room for vCPU `ring`, which left KVM_RUN with KVM_EXIT_DIRTY_RING_FULL; then it can go back in.
// Takes `entries` entries of its ring and leaves the rest to the reaper, which it wakes; with
// DIRTY_RING_WHOLE all of all rings. Works while the reaper is stopped, too.
int dirty_ring_reaper_ring_full(struct dirty_ring_reaper *reaper, uint32_t ring, uint32_t entries,
                                uint64_t now_us, struct dirty_ring_ring_full *report);

// Any thread: asks for a pass over all rings, now.
int dirty_ring_reaper_kick(struct dirty_ring_reaper *reaper);

// Any thread: makes the reaper take a pass now, which leaves alone what can wait. For a vCPU that hands its
// ring-full to the thread that takes the turns, which then calls dirty_ring_reaper_ring_full for it.
int dirty_ring_reaper_notify_ring_full(struct dirty_ring_reaper *reaper);

// Any thread: asks the reaper to take one more pass over all rings and end. Take turns until
// DIRTY_RING_TURN_DONE. It can't be taken back.
int dirty_ring_reaper_stop(struct dirty_ring_reaper *reaper);

// How far a drain is. Set it to 0 to begin one; it is 0 again at the end.
struct dirty_ring_drain {
    uint32_t ring;
    uint32_t is_inside;
    uint32_t left;
};

// Takes one batch of a drain, which publishes every page that is in the rings when it comes to them: call it
// until DIRTY_RING_TURN_DONE. Then all is published that was dirtied before. Kick the vCPUs out of KVM_RUN
// before. Each caller has a drain of its own; it works while the reaper is stopped, too.
//
//     struct dirty_ring_drain drain = { 0, 0, 0 };
//     int left;
//     do {
//         pthread_mutex_lock(&lock);
//         left = dirty_ring_reaper_drain(reaper, &drain, now_us());
//         pthread_mutex_unlock(&lock);
//     } while (left == DIRTY_RING_TURN_AGAIN);
int dirty_ring_reaper_drain(struct dirty_ring_reaper *reaper, struct dirty_ring_drain *drain,
                            uint64_t now_us);

// ---- When something went wrong ----

// Returns 0 where the log is complete so far, else the failure that every drain returns.
int dirty_ring_reaper_check(struct dirty_ring_reaper *reaper);

// Forgets that a publication failed, because what takes the pages was mended. The pages are still there:
// the next turn, ring-full or drain offers them again.
int dirty_ring_reaper_retry_publish(struct dirty_ring_reaper *reaper);

// Begins a resynchronisation, which gives the rings back after a failure or where positions are unknown: an
// overrun ends a migration, not a guest. vCPUs may run. Then, without letting go of the lock, switch logging
// off and on for every slot (KVM_SET_USER_MEMORY_REGION without KVM_MEM_LOG_DIRTY_PAGES, and with it), and
// call dirty_ring_reaper_end_resync.
int dirty_ring_reaper_begin_resync(struct dirty_ring_reaper *reaper);

// Ends a resynchronisation: counts all memory as dirty, by publish_slot for every slot. Where that fails, it
// can be called again. Turns can be taken again after it.
int dirty_ring_reaper_end_resync(struct dirty_ring_reaper *reaper, uint64_t now_us);

// ---- Figures ----

// Totals over all rings since the reaper was created.
struct dirty_ring_totals {
    // Passes of the reaper, those before its saved state included.
    uint64_t passes;
    // Entries harvested by passes, by ring-fulls and by drains.
    uint64_t reaper_harvested;
    uint64_t ring_full_harvested;
    uint64_t drain_harvested;
    // Ring-fulls.
    uint64_t ring_fulls;
    // Calls of the reset callback; those that came back short; whole ones that may have been interrupted.
    uint64_t resets;
    uint64_t short_resets;
    uint64_t maybe_interrupted_resets;
    // Entries reset.
    uint64_t entries_reset;
    // Pages published, once for each harvest, and suspects published again.
    uint64_t published;
    uint64_t suspects_published;
    // At present: entries that wait for their reset, pages that wait for their publication, and suspects.
    uint64_t outstanding;
    uint64_t unpublished;
    uint64_t suspects;
};

int dirty_ring_reaper_totals(struct dirty_ring_reaper *reaper, struct dirty_ring_totals *totals);

// Figures of one ring since it was added.
struct dirty_ring_figures {
    // Entries harvested, and harvests that took any.
    uint64_t harvested;
    uint64_t harvests;
    // Entries that named no registered page, each of which is a lost page; and entries of removed slots.
    uint64_t bad_entries;
    uint64_t late_entries;
    // Ring-fulls of its vCPU.
    uint64_t ring_fulls;
    // Pages per second over the last looks at it.
    uint64_t mean_rate_per_s;
    uint64_t max_rate_per_s;
    // Entries that wait in it now, and the most that were found.
    uint32_t occupancy;
    uint32_t peak_occupancy;
    // 1 where its position is unknown, from a resynchronisation until its vCPU has logged a page; else 0.
    uint32_t is_lost;
};

int dirty_ring_reaper_ring_figures(struct dirty_ring_reaper *reaper, uint32_t ring,
                                   struct dirty_ring_figures *figures);

// A pass of the reaper: when it was over, what it found and what was decided. `number` counts from 1; it is
// 0 where there was no pass yet.
struct dirty_ring_pass {
    uint64_t number;
    uint64_t now_us;
    struct dirty_ring_measurement found;
    struct dirty_ring_decision decided;
};

// Tells the last pass that is over. Where `number` has changed after a turn, that turn has ended one.
int dirty_ring_reaper_last_pass(struct dirty_ring_reaper *reaper, struct dirty_ring_pass *pass);

// ---- Saving and going on ----

// To go on in another process: stop the vCPUs and the reaper, and save each ring's state, the planner's
// state and the suspects; after a failure the unpublished pages as well, which count as dirty. Suspects are
// pages that an interrupted reset may have left writable: they count as dirty until logging of their slot
// was switched off and on. The other process maps the same rings, adds each with its state, and resumes.

// What has to be saved of the reaper's machine. Plain numbers, as in struct dirty_ring_ring_state.
struct dirty_ring_planner_state {
    uint64_t passes;
    int policy;
    uint32_t level;
    uint64_t values[2];
};

int dirty_ring_reaper_ring_state(struct dirty_ring_reaper *reaper, uint32_t ring, uint64_t now_us,
                                 struct dirty_ring_ring_state *state);
int dirty_ring_reaper_planner_state(struct dirty_ring_reaper *reaper,
                                    struct dirty_ring_planner_state *state);

// Copy as many pages as there is room for, and return how many there are.
int dirty_ring_reaper_unpublished(struct dirty_ring_reaper *reaper, struct dirty_ring_page *pages,
                                  size_t room);
int dirty_ring_reaper_suspects(struct dirty_ring_reaper *reaper, struct dirty_ring_page *pages,
                               size_t room);

// Lets a reaper begin again that is done, has failed, or hasn't taken a turn yet: with `controller`, and
// with its saved state or NULL. Kicks and stops that came before don't count any more.
int dirty_ring_reaper_resume(struct dirty_ring_reaper *reaper, struct dirty_ring_controller *controller,
                             const struct dirty_ring_planner_state *saved);

#ifdef __cplusplus
}
#endif

#endif
