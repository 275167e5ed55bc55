// Passes, ring-fulls and drains allocate nothing, full batches and suspects included. The linker sends each
// allocation of the program and of the library here (--wrap).

#include "vm.h"

static unsigned long allocations;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
int __real_posix_memalign(void **memory, size_t alignment, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
int __wrap_posix_memalign(void **memory, size_t alignment, size_t size);

void *__wrap_malloc(size_t size)
{
    allocations++;
    return __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    allocations++;
    return __real_calloc(count, size);
}

void *__wrap_realloc(void *memory, size_t size)
{
    allocations++;
    return __real_realloc(memory, size);
}

int __wrap_posix_memalign(void **memory, size_t alignment, size_t size)
{
    allocations++;
    return __real_posix_memalign(memory, alignment, size);
}

int main(void)
{
    struct vm vm;
    unsigned long before;
    vm_init(&vm, "deadline");
    // The library's own allocations are seen.
    before = allocations;
    CHECK(dirty_ring_controller_free(vm_controller(&vm, "seed")) == 0 && allocations != before);
    before = allocations;
    for (uint64_t round = 0; round < 50; round++) {
        for (int vcpu = 0; vcpu < VCPUS; vcpu++)
            vm_write(&vm, vcpu, round * 100, 3000);
        CHECK(vm_pass(&vm) == DIRTY_RING_TURN_WAIT);
        CHECK(dirty_ring_reaper_kick(vm.reaper) == 0 && vm_pass(&vm) == DIRTY_RING_TURN_WAIT);
        vm.maybe_interrupted = round % 10 == 0;
        vm_write(&vm, 0, round * 100, 500);
        CHECK(vm_drain(&vm) == DIRTY_RING_TURN_DONE);
    }
    CHECK(vm_totals(&vm).ring_fulls > 100 && vm_totals(&vm).suspects_published > 100);
    CHECK(allocations == before);
    vm_free(&vm);
    return 0;
}
