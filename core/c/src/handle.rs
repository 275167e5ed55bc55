//! How a handle is guarded: by a mutex that is only tried.

use std::sync::{Mutex, MutexGuard, TryLockError};

use crate::error::{Code, Failure, panicked};

/// Locks a handle for one call, without waiting.
///
/// # Errors
/// [`Code::Busy`] where another call is at work: on another thread, or below this one, in a callback.
/// [`Code::Panicked`].
pub(crate) fn exclusively<T>(guarded: &Mutex<T>) -> Result<MutexGuard<'_, T>, Failure> {
    guarded.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => Failure::new(
            Code::Busy,
            "another call on this handle is at work: hold a lock of yours around calls, and make \
             none from a callback",
        ),
        TryLockError::Poisoned(_) => panicked(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    #[test]
    fn a_second_call_is_busy_and_a_handle_that_panicked_stays_so() {
        let code = |guarded| exclusively(guarded).map(|_| ()).map_err(|error| error.code);
        let guarded = Mutex::new(0);
        let first = exclusively(&guarded).unwrap();
        assert_eq!(code(&guarded), Err(Code::Busy));
        drop(first);
        assert_eq!(code(&guarded), Ok(()));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _held = exclusively(&guarded).unwrap();
            resume_unwind(Box::new("injected"));
        }));
        assert!(panicked.is_err());
        for _ in 0..2 {
            assert_eq!(code(&guarded), Err(Code::Panicked));
        }
    }
}
