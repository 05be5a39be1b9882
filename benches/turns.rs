//! Sides that are compared are measured by turns.

use anyhow::Result;

/// Measures each of `sides` once a round, the order turning: whoever goes first
/// finds the machine colder. The figures of each side, by round.
pub(crate) fn by_turns<S: Copy, F>(
    rounds: u32,
    sides: &[S],
    name: impl Fn(S) -> String,
    mut measure: impl FnMut(S, u32) -> Result<F>,
) -> Result<Vec<Vec<F>>> {
    let mut figures: Vec<Vec<F>> = sides.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        for turn in 0..sides.len() {
            let at = (turn + round as usize) % sides.len();
            eprintln!("round {} of {rounds}: {}", round + 1, name(sides[at]));
            figures[at].push(measure(sides[at], round)?);
        }
    }
    Ok(figures)
}
