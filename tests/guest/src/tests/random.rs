//! Phases of random writes: where they write, what they write, and what the host knows of it.

use super::*;

/// Returns the first word of every data page of the guest.
pub(super) fn all_words(guest: &Guest) -> Vec<u64> {
    (0..guest.layout().config().vcpus)
        .flat_map(|vcpu| words(guest, vcpu))
        .collect()
}

/// Follows the random writes of vCPU 0 in a guest that nothing else writes to.
pub(super) struct Replay {
    pages: RandomPages,
    writes: u64,
    words: Vec<u64>,
}

impl Replay {
    pub(super) fn new(guest: &Guest, pages: RandomPages) -> Self {
        let words = vec![0; guest.layout().data_pages() as usize];
        Self {
            pages,
            writes: 0,
            words,
        }
    }

    /// Asserts that the guest's memory holds what the first `page_writes` writes left there.
    pub(super) fn check(&mut self, guest: &Guest, page_writes: u64) {
        while self.writes < page_writes {
            self.writes += 1;
            let count = self.writes;
            let page = self.pages.next().unwrap();
            self.words[page as usize] = Stamp { vcpu: 0, count }.word();
        }
        assert!(self.words == all_words(guest), "after {page_writes} writes");
    }
}

#[test]
fn random_pages_stay_in_their_range_and_reach_all_of_it_from_every_seed() {
    for seed in (0..50).chain([u64::MAX, 1 << 63, 0u64.wrapping_sub(0x9e37_79b9_7f4a_7c15)]) {
        let mut reached = [false; 100];
        for page in RandomPages::new(1000, 100, seed).take(3000) {
            reached[page as usize - 1000] = true;
        }
        assert!(reached.iter().all(|&reached| reached), "seed {seed}");
    }
    assert_eq!(RandomPages::new(1000, 0, 1).next(), None);
    let mut single = RandomPages::new(7, 1, 1);
    assert!((0..100).all(|_| single.next() == Some(7)));
    let all = RandomPages::new(0, MAX_DATA_PAGES, 1).take(100_000);
    let highest = all.max().unwrap();
    assert!((MAX_DATA_PAGES - MAX_DATA_PAGES / 1000..MAX_DATA_PAGES).contains(&highest));
}

#[test]
fn a_stamp_is_known_from_its_word_and_no_count_is_taken_for_one() {
    for vcpu in [0, 1, MAX_VCPUS - 1] {
        for count in [1, (1 << 48) - 1] {
            let stamp = Stamp { vcpu, count };
            assert_eq!(Stamp::from_word(stamp.word()), Some(stamp));
        }
    }
    assert_eq!(Stamp::from_word(0), None);
    assert_eq!(Stamp::from_word((1 << 48) - 1), None);
}

#[test]
fn at_every_exit_memory_holds_exactly_the_counted_random_writes() {
    memory_holds_the_counted_writes_at_every_exit(Privilege::User);
}

#[test]
fn at_every_exit_memory_holds_exactly_the_counted_random_writes_at_cpl_0_too() {
    memory_holds_the_counted_writes_at_every_exit(Privilege::Kernel);
}

fn memory_holds_the_counted_writes_at_every_exit(privilege: Privilege) {
    // The range begins and ends inside slots and has a whole one within.
    let Some(guest) = guest(GuestConfig {
        privilege,
        ..config(1, 300, 3)
    }) else {
        return;
    };
    let mut vcpu = guest.create_vcpus().unwrap().remove(0);
    // Slow enough that the host, which repeats each write, keeps up.
    vcpu.params().set_random(37, 200, 30, 1).unwrap();
    let mut replay = Replay::new(&guest, RandomPages::new(37, 200, 1));
    let kicker = vcpu.kicker().clone();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                kicker.kick().unwrap();
                thread::yield_now();
            }
        });
        // Ends the kicks on a failed assertion too.
        let _done = SetOnDrop(&done);
        let mut exits_with_writes = 0;
        while exits_with_writes < 100 || replay.words[37..237].contains(&0) {
            let before = replay.writes;
            assert_eq!(vcpu.run().unwrap(), GuestExit::Interrupted);
            replay.check(&guest, vcpu.page_writes().unwrap());
            exits_with_writes += u32::from(replay.writes > before);
        }
    });
    let elsewhere = [&replay.words[..37], &replay.words[237..]].concat();
    assert!(elsewhere.iter().all(|&word| word == 0));
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn vcpus_that_share_pages_write_stamps_that_name_their_write() {
    let Some(guest) = guest(config(3, 100, 2)) else {
        return;
    };
    // vCPU 2 idles; the others share pages of all three, over both slots.
    let (first_page, pages) = (50, 200);
    for vcpu in 0..2 {
        guest.params()[vcpu]
            .set_random(first_page, pages, 0, vcpu as u64)
            .unwrap();
    }
    let running = start(&guest);
    wait_until("stamps of both vCPUs on every page", || {
        let page_writes = running.page_writes().unwrap();
        page_writes[0].min(page_writes[1]) > 100 * pages
    });
    let outcomes = running.stop().unwrap();
    let words = all_words(&guest);
    let sequences = [0, 1].map(|vcpu: usize| {
        let writes = outcomes[vcpu].page_writes as usize;
        let sequence = RandomPages::new(first_page, pages, vcpu as u64);
        sequence.take(writes).collect::<Vec<_>>()
    });
    let mut seen = HashSet::new();
    let mut writers = [0; 2];
    for (page, &word) in words.iter().enumerate() {
        if !(first_page..first_page + pages).contains(&(page as u64)) {
            assert_eq!(word, 0, "page {page}");
            continue;
        }
        let stamp = Stamp::from_word(word).unwrap();
        assert!(seen.insert(stamp), "{stamp:?} twice");
        // The write that the stamp names was made, and to this page.
        let written = sequences[stamp.vcpu][stamp.count as usize - 1];
        assert_eq!(written, page as u64, "{stamp:?}");
        writers[stamp.vcpu] += 1;
    }
    println!("last writers: {writers:?}");
    assert_eq!(outcomes[2].page_writes, 0);
}

#[test]
fn a_guest_never_leaves_its_pages_while_both_kinds_of_phase_alternate() {
    let Some(guest) = guest(config(2, 64, 2)) else {
        return;
    };
    let params = &guest.params()[0];
    let running = start(&guest);
    let mut round = 0;
    // In order: the first 32 pages of vCPU 0. At random: pages 16 to 79, the last of them vCPU 1's.
    wait_until("writes of both kinds", || {
        for _ in 0..1000 {
            round += 1;
            params.set(round % 33, round % 3).unwrap();
            params
                .set_random(16 + round % 32, round % 33, round % 3, round)
                .unwrap();
        }
        let words = all_words(&guest);
        let stamps = words.iter().filter(|&&word| word >> 48 != 0).count();
        round >= 100_000 && stamps > 16 && words[..16].iter().all(|&word| word != 0)
    });
    let writes = running.stop().unwrap()[0].page_writes;
    let words = all_words(&guest);
    assert!(words[..16].iter().all(|&word| word >> 48 == 0));
    assert!(words[79..].iter().all(|&word| word == 0));
    for (page, &word) in words.iter().enumerate() {
        // One count goes through the phases of both kinds.
        let stamp = Stamp::from_word(word).unwrap_or(Stamp {
            vcpu: 0,
            count: word,
        });
        assert!(stamp.vcpu == 0 && stamp.count <= writes, "page {page}");
    }
}

#[test]
fn unlogged_pages_knows_the_writer_of_a_stamp() {
    let Some(guest) = guest(config(2, 64, 2)) else {
        return;
    };
    // vCPU 0 writes to pages of vCPU 1 alone.
    guest.params()[0].set_random(64, 64, 0, 3).unwrap();
    let running = start(&guest);
    wait_until("all pages", || {
        words(&guest, 1).iter().all(|&word| word != 0)
    });
    let writes = running.stop().unwrap()[0].page_writes;
    assert_eq!(guest.unlogged_pages(&[0, u64::MAX]).unwrap(), 64);
    assert_eq!(guest.unlogged_pages(&[writes, 0]).unwrap(), 0);
    assert_eq!(guest.unlogged_pages(&[writes - 1, 0]).unwrap(), 1);
}

#[test]
fn random_writes_outside_the_data_area_are_rejected_and_the_old_phase_goes_on() {
    let Some(guest) = guest(config(2, 16, 1)) else {
        return;
    };
    let params = &guest.params()[0];
    params.set_random(8, 24, 0, 1).unwrap();
    for (first_page, pages) in [(9, 24), (33, 0), (0, 33), (u64::MAX, 1), (1, u64::MAX)] {
        assert!(matches!(
            params.set_random(first_page, pages, 0, 1),
            Err(GuestError::RandomPagesOutOfRange { data_pages: 32, .. })
        ));
    }
    let running = start(&guest);
    wait_until("all pages", || {
        all_words(&guest)[8..].iter().all(|&word| word != 0)
    });
    // No pages: the vCPU idles.
    params.set_random(0, 0, 0, 1).unwrap();
    wait_until("no more page writes", || {
        let counts = [(); 20].map(|()| running.page_writes().unwrap()[0]);
        counts.iter().all(|&count| count == counts[0])
    });
    running.stop().unwrap();
    assert!(words(&guest, 0)[..8].iter().all(|&word| word == 0));
}
