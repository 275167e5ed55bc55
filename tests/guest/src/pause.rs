//! Pauses of a running guest.

use crate::error::GuestError;
use crate::kick::VcpuKicker;

/// vCPUs held outside guest mode, until [`resume`](Self::resume) or drop.
///
/// It does not keep the guest from being stopped.
#[derive(Debug)]
#[must_use = "the vCPUs go on when it is dropped"]
pub struct Pause {
    kickers: Vec<VcpuKicker>,
}

impl Pause {
    /// Pauses the vCPUs of `kickers`; returns once all of them are held. On an error, all go on.
    pub(crate) fn begin<'a>(
        kickers: impl IntoIterator<Item = &'a VcpuKicker>,
    ) -> Result<Self, GuestError> {
        let mut pause = Self {
            kickers: Vec::new(),
        };
        for kicker in kickers {
            // Noted first: a pause that begins has to end, even if it fails.
            pause.kickers.push(kicker.clone());
            kicker.begin_pause()?;
        }
        for kicker in &pause.kickers {
            kicker.wait_for_pause()?;
        }
        Ok(pause)
    }

    /// Lets the vCPUs go on, except those that another pause still holds.
    pub fn resume(self) {
        drop(self);
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        for kicker in &self.kickers {
            kicker.end_pause();
        }
    }
}
