//! Which sessions the server said it has: one bit a session, since ten
//! million of them must not weigh on the machine that is being measured. Pure.

/// A set of session numbers, dense from 0.
#[derive(Clone, Debug, Default)]
pub struct Acknowledged {
    words: Vec<u64>,
    total: u64,
}

impl Acknowledged {
    /// Adds `number`; adding it twice counts it once.
    pub fn insert(&mut self, number: u64) {
        let (word, bit) = place(number);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.total += u64::from(self.words[word] & bit == 0);
        self.words[word] |= bit;
    }

    /// Whether `number` was acknowledged.
    pub fn contains(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        self.words.get(word).is_some_and(|found| found & bit != 0)
    }

    /// How many sessions were acknowledged.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Every acknowledged number, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.words.iter().enumerate().flat_map(|(word, &bits)| {
            (0..64)
                .filter(move |bit| bits >> bit & 1 == 1)
                .map(move |bit| word as u64 * 64 + bit)
        })
    }

    /// At most `wanted` acknowledged numbers, each drawn from its own equal
    /// share of them: random within, and no stretch of the load goes unseen.
    pub fn sample(&self, wanted: u64, mut random: impl FnMut() -> u64) -> Vec<u64> {
        let wanted = wanted.min(self.total);
        let mut picks = (0..wanted).map(|share| {
            let start = share_start(self.total, share, wanted);
            start + random() % (share_start(self.total, share + 1, wanted) - start)
        });
        let mut pick = picks.next();
        let mut sample = Vec::new();
        for (rank, number) in (0..).zip(self.iter()) {
            if pick == Some(rank) {
                sample.push(number);
                pick = picks.next();
            }
        }
        sample
    }
}

/// Where share `share` of `shares` begins among `total` numbers.
fn share_start(total: u64, share: u64, shares: u64) -> u64 {
    let start = u128::from(total) * u128::from(share) / u128::from(shares);
    u64::try_from(start).expect("a share of a u64 fits a u64")
}

fn place(number: u64) -> (usize, u64) {
    let word = usize::try_from(number / 64).expect("a session number fits the address space");
    (word, 1 << (number % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_third(below: u64) -> Acknowledged {
        let mut set = Acknowledged::default();
        (0..below)
            .filter(|number| number % 3 == 0)
            .for_each(|number| set.insert(number));
        set
    }

    #[test]
    fn a_session_counts_once_however_often_it_is_acknowledged() {
        let mut set = every_third(300);
        assert_eq!(set.total(), 100);
        set.insert(297);
        set.insert(64);
        assert_eq!(set.total(), 101);
        assert!(set.contains(64) && set.contains(297));
        assert!(!set.contains(65) && !set.contains(1_000_000));
    }

    #[test]
    fn iterating_finds_exactly_what_was_inserted() {
        let found: Vec<_> = every_third(1_000).iter().collect();
        let meant: Vec<_> = (0..1_000).step_by(3).collect();
        assert_eq!(found, meant);
    }

    #[test]
    fn a_sample_holds_only_acknowledged_sessions_from_the_whole_range() {
        let set = every_third(30_000);
        let mut seed = 7_u64;
        let sample = set.sample(100, || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed >> 20
        });
        assert_eq!(sample.len(), 100);
        for (share, number) in (0_u64..).zip(&sample) {
            assert!(set.contains(*number));
            assert_eq!(number / 300, share, "one from each hundredth");
        }
    }

    #[test]
    fn a_sample_larger_than_the_set_is_the_set() {
        let set = every_third(30);
        assert_eq!(set.sample(1_000, || 5), set.iter().collect::<Vec<_>>());
        assert!(Acknowledged::default().sample(10, || 5).is_empty());
    }
}
