//! The way back: exactly one answer an entry.
//!
//! A [`Reply`] consumes itself when it answers, and answers when it is
//! dropped, so there is no path (a panic, a lost batch, a worker that ends)
//! on which a caller waits for ever or hears twice.

use tokio::sync::oneshot;

use crate::batch::BatchError;

/// What a caller hears.
pub type Outcome<P, E> = Result<P, BatchError<E>>;

/// The sending end of one caller's answer.
#[derive(Debug)]
pub struct Reply<P, E> {
    sender: Option<oneshot::Sender<Outcome<P, E>>>,
}

/// A reply and the end on which its caller waits.
#[must_use]
pub fn channel<P, E>() -> (Reply<P, E>, oneshot::Receiver<Outcome<P, E>>) {
    let (sender, receiver) = oneshot::channel();
    (
        Reply {
            sender: Some(sender),
        },
        receiver,
    )
}

impl<P, E> Reply<P, E> {
    /// Answers the caller. `false` says that it had left before: nobody heard.
    pub fn send(mut self, outcome: Outcome<P, E>) -> bool {
        self.sender
            .take()
            .is_some_and(|sender| sender.send(outcome).is_ok())
    }

    /// Whether the caller has left.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.sender.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

impl<P, E> Drop for Reply<P, E> {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take() {
            // The caller may have left: then there is nobody to tell.
            let _ = sender.send(Err(BatchError::Unanswered));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_entry_that_is_lost_is_answered_all_the_same() {
        let (reply, answer) = channel::<(), ()>();
        drop(reply);
        assert_eq!(answer.await, Ok(Err(BatchError::Unanswered)));
    }

    #[tokio::test]
    async fn a_reply_knows_that_its_caller_has_left() {
        let (reply, answer) = channel::<(), ()>();
        assert!(!reply.has_left());
        drop(answer);
        assert!(reply.has_left());
        assert!(!reply.send(Ok(())), "nobody was there to hear it");
    }
}
