//! Which of several lines a call takes: of two chosen at random the one that
//! carries less. PURE.
//!
//! The least loaded of all would draw every sidecar of a fleet to the same
//! upstream at once, and taking turns would send as much to one that has
//! become slow as to the others; two random choices do neither.

/// What a choice goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    /// Whether there is a connection.
    pub(super) up: bool,
    /// Calls under way.
    pub(super) carried: usize,
}

/// An index below `count`, or `None` if there is none to choose. Lines that
/// are up come before lines that are not. `below(n)` is a random number below
/// `n`.
pub(super) fn choose(
    count: usize,
    load: impl Fn(usize) -> Load,
    mut below: impl FnMut(usize) -> usize,
) -> Option<usize> {
    match count {
        0 => return None,
        1 => return Some(0),
        _ => {}
    }
    let first = below(count);
    // The second is another one: the places after the first, around the circle.
    let second = (first + 1 + below(count - 1)) % count;
    let better = match (load(first), load(second)) {
        (a, b) if a.up == b.up && b.carried < a.carried => second,
        (a, b) if b.up && !a.up => second,
        _ => first,
    };
    if load(better).up {
        return Some(better);
    }
    // Both are down: any that is up will do, and else one of these.
    let up = (0..count)
        .map(|step| (better + step) % count)
        .find(|&place| load(place).up);
    Some(up.unwrap_or(better))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(up: bool, carried: usize) -> Load {
        Load { up, carried }
    }

    /// Every pair of random numbers that a choice among `lines` can draw.
    fn all(lines: &[Load]) -> Vec<usize> {
        let count = lines.len();
        let draws = (0..count).flat_map(|a| (0..count - 1).map(move |b| [a, b]));
        let choice = |draw: [usize; 2]| {
            let mut draw = draw.into_iter();
            choose(
                count,
                |place| lines[place],
                |_| draw.next().expect("two draws"),
            )
        };
        draws.map(|draw| choice(draw).expect("not empty")).collect()
    }

    #[test]
    fn the_busiest_of_the_lines_is_never_chosen() {
        let chosen = all(&[line(true, 3), line(true, 9), line(true, 1)]);
        assert!(!chosen.contains(&1), "{chosen:?}");
        assert!(chosen.contains(&0) && chosen.contains(&2), "{chosen:?}");
    }

    #[test]
    fn a_line_that_is_down_is_chosen_only_where_none_is_up() {
        let down = line(false, 0);
        assert_eq!(all(&[down, down, line(true, 99), down]), [2; 12]);
        assert_eq!(choose(1, |_| down, |_| 0), Some(0));
        assert_eq!(choose(0, |_| down, |_| 0), None);
    }

    proptest! {
        #[test]
        fn lines_of_equal_load_are_chosen_equally_often(count in 2..9_usize) {
            let chosen = all(&vec![line(true, 4); count]);
            for place in 0..count {
                let times = chosen.iter().filter(|chosen| **chosen == place).count();
                prop_assert_eq!(times, count - 1);
            }
        }
    }
}
