//! Error codes and texts, and the boundary that no panic crosses.

use std::cell::RefCell;
use std::ffi::{c_char, c_int};
use std::fmt;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};

use dirty_ring_core::collector::CollectError;
use dirty_ring_core::controller::{DeadlineError, PolicyError, StateError};
use dirty_ring_core::size::RingSizeError;
use dirty_ring_core::slots::SlotError;

/// What a call returns when it fails. Callers read it as an `int`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum Code {
    /// A pointer that must not be NULL is.
    Null = -1,
    /// Header and library differ.
    Abi = -2,
    /// Another call on the handle is at work.
    Busy = -3,
    /// A panic inside the library; the handle can only be freed.
    Panicked = -4,
    /// No ring has this size.
    Size = -5,
    /// No controller has this name or these options.
    Policy = -6,
    /// The memory can't be that of a ring in this position.
    Ring = -7,
    /// There is no ring of this index.
    NoSuchRing = -8,
    /// The memory slot is known already, has no pages, or isn't known.
    Slot = -9,
    /// A saved state doesn't fit.
    State = -10,
    /// The reaper has ended.
    Stopped = -11,
    /// The reaper hasn't ended.
    Running = -12,
    /// The reset callback failed.
    Reset = -13,
    /// A publish callback failed.
    Publish = -14,
    /// The reset callback counted entries that were not harvested here.
    ForeignReset = -15,
    /// KVM resets nothing any more.
    Stalled = -16,
    /// A ring has overrun.
    Overrun = -17,
    /// A ring's entries are not where the next one is expected.
    Parted = -18,
    /// A resynchronisation was begun and not ended.
    Resyncing = -19,
    /// Entries named no registered page: pages were lost.
    BadEntries = -20,
    /// Too many resets were interrupted: pages may have been lost.
    TooManySuspects = -21,
    /// A failure that this header doesn't know.
    Unknown = -22,
}

/// A failed call: its code, and what to tell the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The code.
    pub code: Code,
    /// What is wrong, and what to do.
    pub text: String,
}

impl Failure {
    /// Creates a failure.
    pub fn new(code: Code, text: impl fmt::Display) -> Self {
        Self {
            code,
            text: text.to_string(),
        }
    }
}

/// The error number that a callback returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallbackError(pub c_int);

impl fmt::Display for CallbackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.checked_neg() {
            Some(errno) if errno > 0 => std::io::Error::from_raw_os_error(errno).fmt(f),
            _ => write!(f, "the callback returned {}", self.0),
        }
    }
}

impl From<CollectError<CallbackError>> for Failure {
    fn from(error: CollectError<CallbackError>) -> Self {
        let code = match &error {
            CollectError::Reset(cause) => {
                return Self::new(Code::Reset, format_args!("{error}: {cause}"));
            }
            CollectError::Publish(cause) => {
                return Self::new(Code::Publish, format_args!("{error}: {cause}"));
            }
            CollectError::ForeignReset { .. } => Code::ForeignReset,
            CollectError::Stalled { .. } => Code::Stalled,
            CollectError::Overrun { .. } => Code::Overrun,
            CollectError::Parted { .. } => Code::Parted,
            CollectError::Resyncing => Code::Resyncing,
            CollectError::BadEntries { .. } => Code::BadEntries,
            CollectError::TooManySuspects { .. } => Code::TooManySuspects,
            CollectError::NoSuchRing { .. } => Code::NoSuchRing,
            _ => Code::Unknown,
        };
        Self::new(code, error)
    }
}

/// Lets `?` turn an error of the core into a failure with its code.
macro_rules! codes {
    ($($error:ty => $code:ident),* $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::new(Code::$code, error)
            }
        })*
    };
}

codes! {
    RingSizeError => Size,
    PolicyError => Policy,
    DeadlineError => Policy,
    SlotError => Slot,
    StateError => State,
}

/// Returns what `pointer` points to.
///
/// # Errors
/// [`Code::Null`], where it is NULL.
pub fn given<T>(pointer: Option<T>, name: &str) -> Result<T, Failure> {
    pointer.ok_or_else(|| {
        Failure::new(
            Code::Null,
            format_args!("the argument '{name}' is NULL, and must not be"),
        )
    })
}

/// Bytes of the text that a thread keeps, with its end.
const TEXT_BYTES: usize = 512;

thread_local! {
    /// The text of the thread's last failure, ended by a zero. It owns no memory, so a thread needs
    /// no cleaning up.
    static TEXT: RefCell<[u8; TEXT_BYTES]> = const { RefCell::new([0; TEXT_BYTES]) };
}

/// Returns the text of this thread's last failure.
pub fn text() -> *const c_char {
    TEXT.with(|text| text.as_ptr()).cast()
}

/// Keeps `text` for this thread, cut off where it is too long.
fn keep(text: &str) {
    let end = whole_characters(text, TEXT_BYTES.saturating_sub(1));
    TEXT.with_borrow_mut(|kept| {
        kept.fill(0);
        for (kept, byte) in kept.iter_mut().zip(text.bytes().take(end)) {
            *kept = byte;
        }
    });
}

/// Returns the most bytes of `text`, at most `bytes`, that are whole characters.
fn whole_characters(text: &str, bytes: usize) -> usize {
    let mut ends = (0..=bytes.min(text.len())).rev();
    ends.find(|end| text.is_char_boundary(*end)).unwrap_or(0)
}

/// Runs the body of a call. A failure becomes its code, with its text kept for this thread; so does a
/// panic, which must not unwind into C.
pub fn call(body: impl FnOnce() -> Result<c_int, Failure>) -> c_int {
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => return value,
        Ok(Err(failure)) => failure,
        Err(_) => panicked(),
    };
    keep(&failure.text);
    failure.code as c_int
}

/// Runs the body of a call that fills in `out`.
pub fn call_for<T>(
    out: Option<&mut MaybeUninit<T>>,
    name: &str,
    body: impl FnOnce() -> Result<T, Failure>,
) -> c_int {
    call(|| {
        let out = given(out, name)?;
        out.write(body()?);
        Ok(0)
    })
}

/// Runs the body of a call that creates what `out` then points to: NULL where it fails.
pub fn create<T>(
    out: Option<&mut MaybeUninit<Option<Box<T>>>>,
    name: &str,
    body: impl FnOnce() -> Result<T, Failure>,
) -> c_int {
    call(|| {
        let out = given(out, name)?.write(None);
        *out = Some(Box::new(body()?));
        Ok(0)
    })
}

/// Returns the failure of a handle in which the library panicked.
pub fn panicked() -> Failure {
    Failure::new(
        Code::Panicked,
        "the library has panicked, which is a bug in it: count all memory as dirty and free the \
         handle",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    fn kept() -> String {
        let bytes = TEXT.with_borrow(|text| *text);
        let text = CStr::from_bytes_until_nul(&bytes).map(CStr::to_string_lossy);
        text.map(String::from).unwrap_or_default()
    }

    #[test]
    fn a_failure_leaves_its_code_and_its_text() {
        let failed = call(|| Err(Failure::new(Code::Slot, "no such slot")));
        assert_eq!((failed, kept().as_str()), (-9, "no such slot"));
        assert_eq!(call(|| Ok(7)), 7);
        assert_eq!(kept(), "no such slot");
    }

    #[test]
    fn a_panic_becomes_a_code() {
        // The hook's message on stderr is the one trace that a panic leaves.
        let code = call(|| std::panic::resume_unwind(Box::new("injected")));
        assert_eq!(code, Code::Panicked as c_int);
        assert!(kept().contains("panicked"));
    }

    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        let long = "ä".repeat(TEXT_BYTES);
        let _ = call(|| Err(Failure::new(Code::Slot, &long)));
        assert_eq!(kept(), "ä".repeat(TEXT_BYTES / 2 - 1));
    }

    #[test]
    fn an_error_number_is_named_and_anything_else_is_shown() {
        assert!(CallbackError(-14).to_string().contains("os error 14"));
        for odd in [5, c_int::MIN] {
            let text = CallbackError(odd).to_string();
            assert_eq!(text, format!("the callback returned {odd}"));
        }
    }
}
