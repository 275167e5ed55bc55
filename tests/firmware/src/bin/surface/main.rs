//! Links every entry point of the core with arguments that the compiler knows nothing of. It has
//! nothing to run: that it links shows that none of them can panic.
#![no_std]
#![no_main]

mod collecting;
mod deciding;
// On 32-bit machines `core::fmt` itself keeps a bounds check, in its conversion of `u64`.
#[cfg(target_pointer_width = "64")]
mod texts;

#[path = "../../no_panic.rs"]
mod no_panic;

/// Keeps functions in the program, ready for a call with any arguments.
///
/// Their addresses are taken, so the compiler can't tell who calls them.
macro_rules! keep {
    ($($function:expr),* $(,)?) => {
        $(core::hint::black_box($function as *const ());)*
    };
}
pub(crate) use keep;

/// The start of a program that isn't run.
// SAFETY: no other symbol of the program has this name.
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    deciding::keep_all();
    collecting::keep_all();
    #[cfg(target_pointer_width = "64")]
    texts::keep_all();
    #[cfg(feature = "control-panic")]
    keep!(control_panic);
    loop {
        core::hint::spin_loop();
    }
}

/// Reads at an index that may be outside: the program must not link.
#[cfg(feature = "control-panic")]
fn control_panic(bytes: &[u8; 7], at: usize) -> u8 {
    bytes[at]
}
