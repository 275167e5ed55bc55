//! A set of pages: a bitmap that finds its members fast.

/// Pages in one word of the bitmap.
pub(crate) const WORD_PAGES: usize = u64::BITS as usize;

/// A set of the pages `0..capacity`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSet {
    words: Vec<u64>,
    capacity: usize,
    len: usize,
}

impl PageSet {
    /// Creates a set without members, of capacity `capacity`.
    pub fn empty(capacity: usize) -> Self {
        Self {
            words: vec![0; capacity.div_ceil(WORD_PAGES)],
            capacity,
            len: 0,
        }
    }

    /// Creates the set of every page of `0..capacity`.
    pub fn full(capacity: usize) -> Self {
        let mut words = vec![u64::MAX; capacity.div_ceil(WORD_PAGES)];
        if let Some(last) = words.last_mut() {
            *last = mask_below((capacity - 1) % WORD_PAGES + 1);
        }
        Self {
            words,
            capacity,
            len: capacity,
        }
    }

    /// Returns how many pages could be members.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns how many pages are members.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns whether `page` is a member. A page beyond the capacity isn't.
    pub fn contains(&self, page: usize) -> bool {
        page < self.capacity && self.words[page / WORD_PAGES] & bit(page) != 0
    }

    /// Adds `page`; returns whether it was new. Does nothing with a page beyond the capacity.
    pub fn insert(&mut self, page: usize) -> bool {
        if page >= self.capacity {
            return false;
        }
        let word = &mut self.words[page / WORD_PAGES];
        let new = *word & bit(page) == 0;
        *word |= bit(page);
        self.len += usize::from(new);
        new
    }

    /// Removes `page`; returns whether it was there.
    pub fn remove(&mut self, page: usize) -> bool {
        if !self.contains(page) {
            return false;
        }
        self.words[page / WORD_PAGES] &= !bit(page);
        self.len -= 1;
        true
    }

    /// Returns the members, in order.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        let mut from = 0;
        core::iter::from_fn(move || {
            let page = self.next_in(from, self.capacity)?;
            from = page + 1;
            Some(page)
        })
    }

    /// Returns the first member in `from..to`.
    pub(crate) fn next_in(&self, from: usize, to: usize) -> Option<usize> {
        self.nth_in(from, to, 0).ok()
    }

    /// Returns the `n`th member in `from..to`, counted from 0; fails with their number if there are
    /// fewer.
    pub(crate) fn nth_in(&self, from: usize, to: usize, n: usize) -> Result<usize, usize> {
        let to = to.min(self.capacity);
        let mut found = 0;
        let mut start = from;
        while start < to {
            let index = start / WORD_PAGES;
            let end = to.min((index + 1) * WORD_PAGES);
            let mut word = self.words[index] & !mask_below(start % WORD_PAGES);
            if end < (index + 1) * WORD_PAGES {
                word &= mask_below(end % WORD_PAGES);
            }
            let here = word.count_ones() as usize;
            if n < found + here {
                for _ in found..n {
                    word &= word - 1;
                }
                return Ok(index * WORD_PAGES + word.trailing_zeros() as usize);
            }
            found += here;
            start = end;
        }
        Err(found)
    }
}

const fn bit(page: usize) -> u64 {
    1 << (page % WORD_PAGES)
}

/// Returns the lowest `bits` bits; all of them for 64.
const fn mask_below(bits: usize) -> u64 {
    if bits >= WORD_PAGES {
        u64::MAX
    } else {
        (1 << bits) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_full_set_ends_at_its_capacity() {
        for capacity in [0, 1, 63, 64, 65, 128, 200] {
            let set = PageSet::full(capacity);
            assert_eq!(set.iter().count(), capacity);
            assert!(!set.contains(capacity));
        }
    }

    proptest! {
        #[test]
        fn it_is_a_set(
            pages in proptest::collection::btree_set(0usize..200, 0..80),
            gone in proptest::collection::btree_set(0usize..200, 0..80),
            from in 0usize..210,
            to in 0usize..210,
            n in 0usize..50,
        ) {
            let mut set = PageSet::empty(200);
            for &page in &pages {
                prop_assert!(set.insert(page));
                prop_assert!(!set.insert(page));
            }
            for &page in &gone {
                prop_assert_eq!(set.remove(page), pages.contains(&page));
            }
            let left: BTreeSet<_> = pages.difference(&gone).copied().collect();
            prop_assert_eq!(set.iter().collect::<BTreeSet<_>>(), left.clone());
            prop_assert_eq!(set.len(), left.len());
            let inside: Vec<_> = left.into_iter().filter(|p| (from..to).contains(p)).collect();
            prop_assert_eq!(set.nth_in(from, to, n), inside.get(n).copied().ok_or(inside.len()));
        }
    }
}
