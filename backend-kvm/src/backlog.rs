//! Pages that no sink has taken yet.

use dirty_ring_core::entry::{DirtyGfn, SlotId};

use crate::sink::SinkFailure;
use crate::slots::MemorySlot;

/// Pages offered to a sink at a time.
const PORTION_PAGES: usize = 4096;

/// Dirty pages of each slot, one bit a page, from the end of one reaper to the beginning of the next.
#[derive(Debug, Default)]
pub(crate) struct Backlog(Vec<SlotPages>);

#[derive(Debug)]
struct SlotPages {
    slot: SlotId,
    /// One bit a page; grows to the highest page that is dirty.
    words: Vec<u64>,
}

impl Backlog {
    /// Adds pages of one slot.
    pub(crate) fn insert(&mut self, slot: SlotId, pages: &[DirtyGfn]) {
        let words = self.words(slot);
        for page in pages {
            let (word, bit) = place(page.offset);
            if word >= words.len() {
                words.resize(word + 1, 0);
            }
            words[word] |= bit;
        }
    }

    /// Adds all pages of a slot.
    pub(crate) fn insert_all(&mut self, slot: &MemorySlot) {
        let words = self.words(slot.id);
        let (last, bit) = place(slot.pages - 1);
        words.clear();
        words.resize(last, u64::MAX);
        words.push(bit | (bit - 1));
    }

    /// Drops the pages of a slot that was removed.
    pub(crate) fn remove(&mut self, slot: SlotId) {
        self.0.retain(|pages| pages.slot != slot);
    }

    /// Returns how many pages there are.
    pub(crate) fn len(&self) -> u64 {
        let words = self.0.iter().flat_map(|pages| &pages.words);
        words.map(|word| u64::from(word.count_ones())).sum()
    }

    /// Returns the pages.
    pub(crate) fn pages(&self) -> impl Iterator<Item = DirtyGfn> {
        self.0.iter().flat_map(|SlotPages { slot, words }| {
            offsets(words).map(|offset| DirtyGfn {
                slot: *slot,
                offset,
            })
        })
    }

    /// Takes the pages of `slot`: a bit for each page that it has.
    pub(crate) fn take(&mut self, slot: &MemorySlot) -> Vec<u64> {
        let mut words = std::mem::take(self.words(slot.id));
        words.resize(slot.pages.div_ceil(u64::BITS.into()) as usize, 0);
        words
    }

    /// Gives the pages of `slot` to `publish`, and keeps them: a sink that doesn't take those of another
    /// slot takes none.
    pub(crate) fn give(
        &self,
        slot: SlotId,
        mut publish: impl FnMut(&[DirtyGfn]) -> Result<(), SinkFailure>,
    ) -> Result<(), SinkFailure> {
        let Some(at) = self.0.iter().position(|pages| pages.slot == slot) else {
            return Ok(());
        };
        let mut portion = Vec::with_capacity(PORTION_PAGES);
        for offset in offsets(&self.0[at].words) {
            portion.push(DirtyGfn { slot, offset });
            if portion.len() == PORTION_PAGES {
                publish(&portion)?;
                portion.clear();
            }
        }
        if !portion.is_empty() {
            publish(&portion)?;
        }
        Ok(())
    }

    /// Forgets all pages, which a sink has taken.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    fn words(&mut self, slot: SlotId) -> &mut Vec<u64> {
        let at = self.0.iter().position(|pages| pages.slot == slot);
        let at = at.unwrap_or_else(|| {
            let words = Vec::new();
            self.0.push(SlotPages { slot, words });
            self.0.len() - 1
        });
        &mut self.0[at].words
    }
}

fn place(offset: u64) -> (usize, u64) {
    let bits = u64::from(u64::BITS);
    ((offset / bits) as usize, 1 << (offset % bits))
}

fn offsets(words: &[u64]) -> impl Iterator<Item = u64> {
    words.iter().enumerate().flat_map(|(at, word)| {
        let first = at as u64 * u64::from(u64::BITS);
        (0..u64::from(u64::BITS))
            .filter(move |bit| word & (1 << bit) != 0)
            .map(move |bit| first + bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives all of `slot` and forgets it; returns the offsets.
    fn given(backlog: &mut Backlog, slot: SlotId) -> Vec<u64> {
        let mut offsets = Vec::new();
        let take = |pages: &[DirtyGfn]| {
            offsets.extend(pages.iter().map(|page| page.offset));
            Ok(())
        };
        backlog.give(slot, take).unwrap();
        backlog.clear();
        offsets
    }

    fn gfn(slot: SlotId, offset: u64) -> DirtyGfn {
        DirtyGfn { slot, offset }
    }

    #[test]
    fn each_page_is_given_once_and_to_the_sink_that_takes_it() {
        let slot = MemorySlot::new(3, 0, 10_000);
        let mut backlog = Backlog::default();
        backlog.insert(slot.id, &[gfn(slot.id, 9_999), gfn(slot.id, 0)]);
        backlog.insert(slot.id, &[gfn(slot.id, 64), gfn(slot.id, 0)]);
        assert_eq!(backlog.len(), 3);
        assert!(backlog.give(slot.id, |_| Err("full".into())).is_err());
        assert_eq!(backlog.len(), 3, "a sink that fails takes nothing");
        assert_eq!(given(&mut backlog, slot.id), [0, 64, 9_999]);
        assert_eq!(backlog.len(), 0);
    }

    #[test]
    fn a_slot_counts_whole_and_goes_whole() {
        for pages in [1, 63, 64, 65, 10_000] {
            let slot = MemorySlot::new(1, 0, pages);
            let mut backlog = Backlog::default();
            backlog.insert(slot.id, &[gfn(slot.id, pages - 1)]);
            backlog.insert_all(&slot);
            assert_eq!(backlog.len(), pages);
            assert!(given(&mut backlog, slot.id).into_iter().eq(0..pages));
            backlog.insert_all(&slot);
            backlog.remove(slot.id);
            assert_eq!(backlog.len(), 0);
        }
    }
}
