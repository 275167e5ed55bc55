//! The soft limits that recorded rings may have: a trace may come from another kind of host.

use dirty_ring::core::size::{MAX_ENTRIES, PML_ENTRIES, RingSize, RingSizeError};

/// Bytes of the smallest page of any KVM host: a trace may come from another host.
const SMALLEST_PAGE_BYTES: u32 = 4096;

/// Entries that a CPU's own log may hold: none, or those of Intel PML.
const CPU_LOG_ENTRIES: [u32; 2] = [0, PML_ENTRIES];

/// Returns the size that a ring of `entries` has on a host without Intel PML.
///
/// # Errors
/// [`RingSizeError`] where no ring has so many entries.
pub(crate) fn default_size(entries: u32) -> Result<RingSize, RingSizeError> {
    RingSize::new(entries, SMALLEST_PAGE_BYTES, 0)
}

/// Returns the sizes that a ring of `entries` may have, one for each kind of host.
pub(super) fn sizes(entries: u32) -> impl Iterator<Item = RingSize> {
    CPU_LOG_ENTRIES
        .into_iter()
        .filter_map(move |log| RingSize::new(entries, SMALLEST_PAGE_BYTES, log).ok())
}

/// Returns the size of a ring of as many entries as `asked` whose soft limit is `capacity`. Returns
/// `asked` itself where `capacity` belongs to a ring of another size, and `None` where it belongs
/// to no ring.
pub(super) fn size_with(capacity: u32, asked: RingSize) -> Option<RingSize> {
    let fits = |size: &RingSize| size.soft_limit() == capacity;
    let same = sizes(asked.entries()).find(fits);
    let other = || {
        let mut all = (0..=MAX_ENTRIES.ilog2()).flat_map(|power| sizes(1 << power));
        all.any(|size| fits(&size)).then_some(asked)
    };
    same.or_else(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_soft_limit_of_the_asked_ring_is_taken_and_one_of_another_ring_is_not() {
        let asked = default_size(4096).unwrap();
        let soft_limit = |capacity| size_with(capacity, asked).map(RingSize::soft_limit);
        assert_eq!(soft_limit(4032), Some(4032));
        assert_eq!(soft_limit(3520), Some(3520));
        // Rings of 1024 and of 65536 entries, with and without PML.
        for other in [960, 448, 65_472, 64_960] {
            assert_eq!(soft_limit(other), Some(4032), "{other}");
        }
        for wrong in [0, 64, 4096, 4031, u32::MAX] {
            assert_eq!(soft_limit(wrong), None, "{wrong}");
        }
    }
}
