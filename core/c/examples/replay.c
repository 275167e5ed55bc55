// Replays a recorded trace under another controller, and prints each decision: the controllers serve a
// monitor that has a reaper of its own, too.
//
// usage: replay POLICY TRACE.csv

#include <dirty_ring.h>

#include "trace.h"

static int checked(int result)
{
    if (result < 0)
        die("dirty ring", dirty_ring_error_text());
    return result;
}

int main(int count, char **arguments)
{
    struct dirty_ring_size size = { .entries = 4096, .page_bytes = 4096 };
    struct dirty_ring_controller *controller;
    struct trace trace;
    uint64_t row[COLUMNS], peeked_us = 0;

    if (count != 3)
        die("usage", "replay POLICY TRACE.csv");
    trace_open(&trace, arguments[2]);
    checked(dirty_ring_controller_new(arguments[1], &size, &controller));
    while (trace_next(&trace, row)) {
        struct dirty_ring_decision decided;
        struct dirty_ring_measurement found = {
            .elapsed_us = peeked_us + row[ELAPSED],
            .harvested = row[HARVESTED],
            .ring_full_harvested = row[RING_FULL_HARVESTED],
            .fullest = (uint32_t)row[FULLEST],
            .ring_fulls = (uint32_t)row[RING_FULLS],
            .wakes = DIRTY_RING_WAKE_TIMER,
            .late_us = row[LATE],
            .took_us = row[TOOK],
        };
        // A pass that only looked at the rings is no pass for a controller that always takes them.
        peeked_us = row[REAPED] ? 0 : found.elapsed_us;
        if (!row[REAPED])
            continue;
        checked(dirty_ring_controller_on_reaped(controller, &found, &decided));
        printf("step %" PRIu64 " wait %" PRIu64 " level %d reasons %" PRIx32 "\n", row[STEP],
               decided.wait_us, decided.level, decided.reasons);
    }
    checked(dirty_ring_controller_free(controller));
    return 0;
}
