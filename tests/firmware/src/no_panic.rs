//! The panic handler of a program that must not panic: a call of it doesn't link.

use core::panic::PanicInfo;

unsafe extern "C" {
    /// Is defined nowhere, so that a program that may panic doesn't link.
    safe fn this_program_can_panic() -> !;
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    this_program_can_panic()
}
