//! Insertion and removal in heapless's containers, without a path to a panic.
//!
//! heapless checks indices with panics. They can't happen here, but the compiler doesn't see that, so
//! firmware would link the panic machinery for them.

use heapless::{Deque, Vec};

/// Inserts `value` at index `at`, or at the end where `at` is beyond it.
///
/// # Errors
/// The value, where `items` is full.
pub(crate) fn insert<T, const N: usize>(
    items: &mut Vec<T, N>,
    at: usize,
    value: T,
) -> Result<(), T> {
    if items.is_full() {
        return Err(value);
    }
    let mut carried = value;
    for place in items.iter_mut().skip(at) {
        core::mem::swap(place, &mut carried);
    }
    items.push(carried)
}

/// Removes the item at index `at`, if there is one, and returns it.
pub(crate) fn remove<T, const N: usize>(items: &mut Vec<T, N>, at: usize) -> Option<T> {
    if at >= items.len() {
        return None;
    }
    let mut carried = items.pop()?;
    for place in items.iter_mut().skip(at).rev() {
        core::mem::swap(place, &mut carried);
    }
    Some(carried)
}

/// Keeps the items that `keep` wants, told their indices, and their order.
pub(crate) fn retain<T: Copy, const N: usize>(
    items: &mut Vec<T, N>,
    mut keep: impl FnMut(usize, &T) -> bool,
) {
    let mut kept = 0usize;
    for at in 0..items.len() {
        let Some(&item) = items.get(at) else {
            break;
        };
        if !keep(at, &item) {
            continue;
        }
        if let Some(place) = items.get_mut(kept) {
            *place = item;
        }
        kept = kept.saturating_add(1);
    }
    items.truncate(kept);
}

/// Appends `value`; where `items` is full, in place of the oldest one.
pub(crate) fn push_recent<T, const N: usize>(items: &mut Deque<T, N>, value: T) {
    if items.is_full() {
        items.pop_front();
    }
    // There is room: `Deque::new` refuses a capacity of 0.
    let _ = items.push_back(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_insertion_and_a_removal_are_those_of_a_vector_at_every_index() {
        for length in 0..5 {
            for at in 0..=length {
                let mut items: Vec<usize, 5> = (0..length).collect();
                let mut expected: std::vec::Vec<usize> = (0..length).collect();
                expected.insert(at, 9);
                assert_eq!(insert(&mut items, at, 9), Ok(()));
                assert_eq!(items.as_slice(), expected);
                assert_eq!(remove(&mut items, at), Some(expected.remove(at)));
                assert_eq!(items.as_slice(), expected);
                assert_eq!(remove(&mut items, length), None);
                assert_eq!(items.as_slice(), expected);
            }
        }
    }

    #[test]
    fn a_full_vector_takes_nothing_and_stays_as_it_is() {
        let mut items: Vec<u8, 2> = [1, 2].into_iter().collect();
        assert_eq!(insert(&mut items, 0, 9), Err(9));
        assert_eq!(items, [1, 2]);
    }

    #[test]
    fn what_is_wanted_is_kept_in_order() {
        let mut items: Vec<usize, 6> = (10..16).collect();
        retain(&mut items, |at, item| {
            assert_eq!(*item, at + 10);
            at % 3 != 0
        });
        assert_eq!(items, [11, 12, 14, 15]);
        retain(&mut items, |_, _| true);
        assert_eq!(items, [11, 12, 14, 15]);
        retain(&mut items, |_, _| false);
        assert!(items.is_empty());
    }

    #[test]
    fn the_most_recent_are_kept_oldest_first() {
        let mut items: Deque<u8, 3> = Deque::new();
        for value in 0..8u8 {
            push_recent(&mut items, value);
            let kept: std::vec::Vec<u8> = (value.saturating_sub(2)..=value).collect();
            assert!(items.iter().eq(&kept));
            assert_eq!(items.back(), Some(&value));
        }
    }
}
