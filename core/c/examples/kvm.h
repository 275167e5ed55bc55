// KVM's side of a dirty ring, index by index as virt/kvm/dirty_ring.c has it.

#ifndef KVM_H
#define KVM_H

#include <linux/kvm.h>
#include <stdint.h>
#include <stdlib.h>

struct ring {
    struct kvm_dirty_gfn *entries;
    uint32_t size, soft_limit;
    // Free-running: where KVM publishes next, and where its reset goes on, on whatever thread.
    uint32_t dirty_index, reset_index;
};

static inline void ring_init(struct ring *ring, uint32_t size, uint32_t soft_limit)
{
    ring->entries = calloc(size, sizeof *ring->entries);
    if (!ring->entries)
        abort();
    ring->size = size;
    ring->soft_limit = soft_limit;
    ring->dirty_index = ring->reset_index = 0;
}

static inline int ring_is_full(const struct ring *ring)
{
    uint32_t reset_index = __atomic_load_n(&ring->reset_index, __ATOMIC_RELAXED);
    return ring->dirty_index - reset_index >= ring->soft_limit;
}

static inline void ring_push(struct ring *ring, uint32_t slot, uint64_t offset)
{
    struct kvm_dirty_gfn *entry = &ring->entries[ring->dirty_index++ & (ring->size - 1)];
    entry->slot = slot;
    entry->offset = offset;
    __atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_DIRTY, __ATOMIC_RELEASE);
}

// Resets what was harvested; returns how many entries that was.
static inline int ring_reset(struct ring *ring)
{
    int count = 0;
    for (;; count++) {
        struct kvm_dirty_gfn *entry = &ring->entries[ring->reset_index & (ring->size - 1)];
        if (!(__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_RESET))
            return count;
        __atomic_store_n(&entry->flags, 0, __ATOMIC_RELEASE);
        __atomic_fetch_add(&ring->reset_index, 1, __ATOMIC_RELAXED);
    }
}

#endif
