//! What the core decides on a machine without an operating system.
//!
//! A file for each machine holds all that is special to it: how it starts, its console, and how it is
//! switched off. QEMU runs them; see `tests/firmware/run`.
#![no_std]
#![no_main]

#[cfg_attr(target_arch = "riscv32", path = "riscv32_virt.rs")]
#[cfg_attr(target_arch = "arm", path = "arm_mps2.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64_virt.rs")]
#[cfg_attr(target_arch = "x86_64", path = "x86_64_pvh.rs")]
mod machine;

#[path = "../../no_panic.rs"]
mod no_panic;

/// The first function on a stack; the machine's start-up code calls it once.
// SAFETY: no other symbol of the program has this name.
#[unsafe(no_mangle)]
extern "C" fn start() -> ! {
    let mut uart = machine::Uart::open();
    dirty_ring_firmware::run(&mut uart);
    #[cfg(feature = "control-panic")]
    control_panic(&mut uart);
    #[cfg(feature = "control-float")]
    control_float(&mut uart);
    machine::power_off()
}

/// Reads at an index that may be outside: the program must not link.
#[cfg(feature = "control-panic")]
fn control_panic(uart: &mut machine::Uart) {
    use dirty_ring_firmware::Console;
    let bytes = *b"control";
    uart.byte(bytes[core::hint::black_box(3)]);
}

/// Calculates with floats: the search for them must find some.
#[cfg(feature = "control-float")]
fn control_float(uart: &mut machine::Uart) {
    use dirty_ring_firmware::Console;
    let ratio = core::hint::black_box(1.5f32) * core::hint::black_box(2.5f32);
    uart.byte((ratio + 48.0) as u8);
}
