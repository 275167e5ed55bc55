// Reads a trace: the CSV that `dirty-ring run --trace` writes, one row for each pass of a reaper.

#ifndef TRACE_H
#define TRACE_H

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The columns that are read; the header of a trace names them in any order.
enum column { STEP, ELAPSED, REAPED, HARVESTED, RING_FULL_HARVESTED, FULLEST, RING_FULLS, LATE, TOOK, COLUMNS };

static const char *const column_names[COLUMNS] = {
    "step", "elapsed_us", "reaped", "harvested", "ring_full_harvested",
    "fullest", "ring_fulls", "late_us", "took_us",
};

struct trace {
    FILE *file;
    // The place of each column in a row.
    int places[COLUMNS];
};

static void die(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

// Reads a row into `line` and splits it into at most `most` fields; returns how many, 0 at the end.
static int trace_fields(FILE *file, char *line, int bytes, char **fields, int most)
{
    int count = 0;
    if (!fgets(line, bytes, file))
        return 0;
    line[strcspn(line, "\r\n")] = 0;
    for (char *field = line; field && count < most; count++) {
        char *comma = strchr(field, ',');
        fields[count] = field;
        if (comma)
            *comma++ = 0;
        field = comma;
    }
    return count;
}

static void trace_open(struct trace *trace, const char *path)
{
    char line[1024], *fields[32];
    trace->file = fopen(path, "r");
    if (!trace->file)
        die(path, "can't be opened");
    int count = trace_fields(trace->file, line, sizeof line, fields, 32);
    for (int column = 0; column < COLUMNS; column++) {
        int place = 0;
        while (place < count && strcmp(fields[place], column_names[column]))
            place++;
        if (place == count)
            die(column_names[column], "no such column");
        trace->places[column] = place;
    }
}

// Reads the next row; returns 0 at the end.
static int trace_next(struct trace *trace, uint64_t row[COLUMNS])
{
    char line[1024], *fields[32];
    int count = trace_fields(trace->file, line, sizeof line, fields, 32);
    for (int column = 0; count && column < COLUMNS; column++) {
        if (trace->places[column] >= count)
            die(column_names[column], "the row is cut off");
        row[column] = strtoull(fields[trace->places[column]], NULL, 10);
    }
    if (!count)
        fclose(trace->file);
    return count != 0;
}

#endif
