# What `run` works with: compilers, a linker, a disassembler, emulators. Sourced by it.
# shellcheck shell=bash disable=SC2154

# What was skipped, for the last line.
skipped=

say() { printf -- '-- %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2 && exit 1; }

# Says what isn't checked, and why.
skip() {
    printf 'SKIPPED: %s\n' "$*" >&2
    skipped=", with something SKIPPED: see above"
}

updated=
# Installs Debian packages; fails where that can't be.
install() {
    command -v apt-get >/dev/null || { echo "this isn't Debian: no apt-get" >&2; return 1; }
    [ -n "$updated" ] || { apt-get update -q >"$logs/apt" 2>&1 && updated=yes; } || return 1
    apt-get install -y -q --no-install-recommends "$@" >>"$logs/apt" 2>&1
}

# Whether Debian's compiler is there, can read the core (Rust 1.88), and has the sources of the library.
toolchain_is_there() {
    local minor
    minor=$(/usr/bin/rustc --version 2>/dev/null | sed -n 's/^rustc 1\.\([0-9]*\).*/\1/p')
    [ "${minor:-0}" -ge 88 ] && [ -x /usr/bin/cargo ] &&
        [ -d "$(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust/library/core" ]
}

# Debian's compiler, whose package of sources builds the library for any target.
install_toolchain() {
    toolchain_is_there || install rustc-web cargo-web rust-web-src || true
    if ! toolchain_is_there; then
        skip "no target is built: needs Debian's rustc-web, cargo-web and rust-web-src, 1.88 or later"
        say "done$skipped"
        exit 0
    fi
    command -v ld.lld >/dev/null || install lld || fail "no linker: install lld"
    command -v llvm-objdump >/dev/null || install llvm || fail "no disassembler: install llvm"
}

# Builds for a target without an operating system: TARGET PROFILE FEATURES ARGUMENTS...
# `verb=rustc` hands on flags for the compiler.
bare() {
    local target=$1 profile=$2 features=$3
    shift 3
    # The library is built along, which a released compiler does only if told that it may.
    RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc /usr/bin/cargo "${verb:-build}" -q -Zbuild-std=core --locked \
        --target "$target" --profile "$profile" --target-dir "$out" --features "bare$features" "$@"
}

# Sets `qemu` to the command that runs a program of a target; fails where there is none.
find_qemu() {
    case $1 in
        riscv32*) qemu=(qemu-system-riscv32 -M virt -bios none) packages=(qemu-system-misc qemu-system-riscv) ;;
        thumb*) qemu=(qemu-system-arm -M mps2-an386 -semihosting-config "enable=on,target=native") packages=(qemu-system-arm) ;;
        aarch64*) qemu=(qemu-system-aarch64 -M virt -cpu cortex-a53) packages=(qemu-system-arm) ;;
        x86_64*) qemu=(qemu-system-x86_64 -M q35 -accel tcg -device "isa-debug-exit,iobase=0xf4,iosize=1") packages=(qemu-system-x86) ;;
    esac
    local package
    for package in "${packages[@]}"; do
        command -v "${qemu[0]}" >/dev/null || install "$package" || true
    done
    command -v "${qemu[0]}" >/dev/null
}
