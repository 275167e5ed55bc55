# What `run` checks. Sourced by it.
# shellcheck shell=bash disable=SC2154

# The undefined symbol of src/no_panic.rs.
panics=this_program_can_panic

# Compares the replays in a list of decisions with those of the `dirty-ring` command.
same_as_the_command() {
    local policy
    cargo build -q --locked --manifest-path ../../Cargo.toml -p dirty-ring
    for policy in $(sed -n 's/^replay //p' "$1"); do
        (cd ../.. && cargo run -q --locked -p dirty-ring -- replay --policy "$policy" \
            --ring-entries 1024 --vcpus 2 tests/firmware/trace.csv) >"$logs/command"
        sed -n "/^replay $policy\$/,/^re[a-z]* /p" "$1" | grep '^step ' |
            diff "$logs/command" - >&2 || fail "dirty-ring replay decides otherwise under $policy"
    done
}

# Links the programs of TARGET under PROFILE.
must_link() {
    if ! bare "$1" "$2" "" --bin firmware --bin surface 2>"$logs/link"; then
        cat "$logs/link" >&2
        ! grep -q "undefined symbol: $panics" "$logs/link" || who_panics "$1" "$2"
        fail "a program for $1 doesn't link ($2)"
    fi
    echo "builds, and has no panic path ($2)"
}

# Prints which functions of the programs can panic: TARGET PROFILE
who_panics() {
    local program
    for program in firmware surface; do
        verb=rustc bare "$1" "$2" "" --bin "$program" -- "-Clink-arg=--defsym=$panics=0"
        llvm-objdump -d --no-show-raw-insn -C "$out/$1/$2/$program" | awk '
            /^[0-9a-f]+ <.*>:$/ { caller = substr($0, index($0, "<")); next }
            /<core::[^+]*(panic|_fail)[^+]*>/ && caller !~ /^<core::/ {
                print "can panic: " caller " " substr($0, index($0, "<core::"))
            }' | sort -u >&2
    done
}

# Links the programs of TARGET with a panic in each, which must not succeed.
panics_are_found() {
    local program
    for program in firmware surface; do
        if bare "$1" release ,control-panic --bin "$program" 2>"$logs/control"; then
            fail "$program for $1 links although it can panic: the check for panic paths is broken"
        fi
        grep -q "undefined symbol: $panics" "$logs/control" ||
            { cat "$logs/control" >&2 && fail "the control of $program doesn't build for $1"; }
    done
}

# Prints what a program does with floats: instructions, and the functions that stand for them.
floats_in() {
    local instructions
    case $1 in
        # All that calculate, compare or convert name their type; plain moves don't.
        thumb*) instructions='v[a-z]+(\.[su](16|32))?\.f(16|32|64)' ;;
        # But for fmov, which moves integers as well.
        aarch64*) instructions='(f(add|sub|n?mul|n?madd|n?msub|div|sqrt|abs|neg|cmp|ccmp|cvt|rint|max|min|csel|mla|mls)[a-z]*|[su]cvtf)' ;;
        x86_64*) instructions='(f[a-z]+|v?(add|sub|mul|div|sqrt|min|max|u?comi|cvt)[a-z0-9]*[sp][sd][a-z0-9]*)' ;;
        riscv32*) instructions='f[a-z]+\.[a-z.]*' ;;
    esac
    llvm-objdump -d --no-show-raw-insn "$2" | grep -v '\bfence\b' |
        grep -E "^ *[0-9a-f]+:[[:space:]]+$instructions\b" || true
    llvm-nm "$2" | grep -E ' __((add|sub|mul|div|neg|cmp|unord|eq|ne|lt|le|gt|ge|pow)[hsdt]f[0-9i]*|(extend|trunc)[hsdt]f[hsdt]f2|fix(uns)?[hsdt]f[sdt]i|float(un)?[sdt]i[hsdt]f|aeabi_([fd](add|r?sub|mul|div|neg|cmp|2)|[iul]+2[fd])[a-z0-9]*)$' || true
}

# TARGET PROGRAM
no_floats() {
    local found
    found=$(floats_in "$1" "$out/$1/release/$2")
    [ -z "$found" ] || { echo "$found" >&2 && fail "$2 for $1 calculates with floats: core/ must not"; }
    echo "no floats in $2"
}

floats_are_found() {
    bare "$1" release ,control-float --bin firmware
    [ -n "$(floats_in "$1" "$out/$1/release/firmware")" ] ||
        fail "no floats are found in a program for $1 that has some: the search for them is broken"
}

# Runs the program of TARGET and compares its decisions with the host's.
run_in_qemu() {
    rm -f "$logs/$1"
    find_qemu "$1" || { skip "the program for $1 isn't run: no ${qemu[0]}" && return; }
    # x86_64 has its own way to end: the exit code is 1 there.
    timeout 60 "${qemu[@]}" -display none -nodefaults -serial stdio -kernel "$out/$1/release/firmware" \
        </dev/null >"$logs/$1" 2>"$logs/qemu" || [ $? = 1 ] ||
        { cat "$logs/qemu" >&2 && fail "the program for $1 didn't come to its end: see $logs/$1"; }
    grep -v '^size ' "$logs/$1" | diff "$logs/host-decisions" - >"$logs/diff" ||
        { head "$logs/diff" >&2 && fail "the core decides otherwise on $1: see $logs/diff"; }
    echo "${qemu[0]}: $(wc -l <"$logs/host-decisions") lines, all as on the host"
}

# Prints the sizes on TARGET and checks them against the limits.
measure() {
    local target=$1 program name bytes
    for program in surface firmware; do
        name=${program/firmware/program}
        bytes=$(llvm-size "$out/$target/release/$program" | awk 'NR == 2 { print $1 + $2 }')
        check_limit "$target" "$name" "$bytes"
    done
    [ -e "$logs/$target" ] || return 0
    while read -r _ name bytes; do
        check_limit "$target" "$name" "$bytes"
        # A control: one byte more than allowed must be refused.
        ! within_limit "$target" "$name" $(($(limit "$target" "$name") + 1)) ||
            fail "the check for limits is broken"
    done < <(grep '^size ' "$logs/$target")
}

# TARGET NAME: the limit, in bytes.
limit() {
    awk -v target="$1" -v name="$2" '
        /^# +surface / { for (i = 2; i <= NF; i++) column[$i] = i }
        $1 == target && name in column { print $column[name] }' limits
}

within_limit() {
    local limit
    limit=$(limit "$1" "$2")
    [ -n "$limit" ] || fail "tests/firmware/limits has no limit of $2 for $1: add one"
    [ "$3" -le "$limit" ]
}

check_limit() {
    printf '%-24s %6d bytes of %d\n' "$2" "$3" "$(limit "$1" "$2")"
    within_limit "$@" ||
        fail "$2 takes $3 bytes on $1, more than tests/firmware/limits allows: make it smaller, or raise the limit in the same commit and say why"
}
