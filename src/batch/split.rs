//! One answer for the batch becomes one part for each entry.

use super::BatchError;

/// An upstream's answer to a batch.
///
/// An answer that does not fall into exactly one part a request is an error
/// for every caller: never everything to everyone, never a neighbour's part.
/// One entry may have an error of its own in the place of its part, and its
/// neighbours have none of it.
pub trait Split<E> {
    /// What one caller gets.
    type Part;

    /// The parts, in the order of the batch's requests.
    ///
    /// # Errors
    /// [`BatchError::Unsplittable`] if there are not exactly `requests` parts.
    fn split(
        self,
        requests: usize,
    ) -> Result<impl Iterator<Item = Result<Self::Part, BatchError<E>>> + Send, BatchError<E>>;
}

/// One part a request, by position.
impl<T: Send, E> Split<E> for Vec<T> {
    type Part = T;

    fn split(
        self,
        requests: usize,
    ) -> Result<impl Iterator<Item = Result<T, BatchError<E>>> + Send, BatchError<E>> {
        if self.len() == requests {
            Ok(self.into_iter().map(Ok))
        } else {
            Err(BatchError::Unsplittable {
                entries: requests,
                parts: self.len(),
            })
        }
    }
}

/// The same answer for every caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replicate<T>(
    /// What each caller gets.
    pub T,
);

impl<T: Clone + Send, E> Split<E> for Replicate<T> {
    type Part = T;

    fn split(
        self,
        requests: usize,
    ) -> Result<impl Iterator<Item = Result<T, BatchError<E>>> + Send, BatchError<E>> {
        Ok(std::iter::repeat_n(self.0, requests).map(Ok))
    }
}
