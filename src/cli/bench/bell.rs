//! Wakers for many futures that one task polls inline.
//!
//! A spawned task a call would cost an allocation and two trips through the
//! scheduler for each; here a waker only writes down *which* part of the task
//! has something to do, and the task polls those parts alone. While the task
//! is at it, no wake-up goes through the scheduler at all: the list is read
//! again before it sleeps.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Wake, Waker},
};

/// The list of what has something to do.
#[derive(Debug)]
pub(super) struct Bell {
    board: Mutex<Board>,
}

#[derive(Debug)]
struct Board {
    /// Who rang since the list was last taken, in order.
    rung: Vec<usize>,
    /// The same as flags: ringing twice is ringing once.
    is_rung: Vec<bool>,
    /// Whom to wake; `None` while the task is awake and will look again.
    asleep: Option<Waker>,
}

/// One part's waker.
#[derive(Debug)]
struct Cord {
    bell: Arc<Bell>,
    part: usize,
}

impl Bell {
    /// A bell with a cord for each of `parts`, all rung once, so that each is
    /// polled a first time.
    pub(super) fn with_cords(parts: usize) -> (Arc<Self>, Vec<Waker>) {
        let bell = Arc::new(Self {
            board: Mutex::new(Board {
                rung: (0..parts).collect(),
                is_rung: vec![true; parts],
                asleep: None,
            }),
        });
        let cord = |part| {
            Waker::from(Arc::new(Cord {
                bell: Arc::clone(&bell),
                part,
            }))
        };
        let cords = (0..parts).map(cord).collect();
        (bell, cords)
    }

    /// Replaces `rung` by the parts that rang; empty if there are none.
    pub(super) fn take(&self, rung: &mut Vec<usize>) {
        rung.clear();
        let mut board = self.board();
        board.asleep = None;
        mem::swap(&mut board.rung, rung);
        for &part in rung.iter() {
            board.is_rung[part] = false;
        }
    }

    /// The next to ring wakes `task`; at once if one has rung already.
    pub(super) fn sleep(&self, task: &Waker) {
        let mut board = self.board();
        if board.rung.is_empty() {
            board.asleep = Some(task.clone());
        } else {
            drop(board);
            task.wake_by_ref();
        }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        // Nothing under this lock can panic half-way, so a poisoned board is whole.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Cord {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut board = self.bell.board();
        if mem::replace(&mut board.is_rung[self.part], true) {
            return;
        }
        board.rung.push(self.part);
        let asleep = board.asleep.take();
        drop(board);
        if let Some(task) = asleep {
            task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn every_part_is_polled_once_at_the_start() {
        let (bell, cords) = Bell::with_cords(3);
        let mut rung = Vec::new();
        bell.take(&mut rung);
        assert_eq!(rung, [0, 1, 2]);
        bell.take(&mut rung);
        assert!(rung.is_empty());
        assert_eq!(cords.len(), 3);
    }

    #[test]
    fn ringing_twice_is_ringing_once_and_wakes_a_sleeping_task_once() {
        let (bell, cords) = Bell::with_cords(3);
        let mut rung = Vec::new();
        bell.take(&mut rung);
        let counted = Arc::new(Counted::default());
        let task = Waker::from(Arc::clone(&counted));
        bell.sleep(&task);
        cords[2].wake_by_ref();
        cords[2].wake_by_ref();
        cords[0].wake_by_ref();
        assert_eq!(counted.0.load(Ordering::Relaxed), 1);
        bell.take(&mut rung);
        assert_eq!(rung, [2, 0]);
    }

    #[test]
    fn a_ring_before_sleeping_is_not_lost() {
        let (bell, cords) = Bell::with_cords(1);
        let mut rung = Vec::new();
        bell.take(&mut rung);
        cords[0].wake_by_ref();
        let counted = Arc::new(Counted::default());
        bell.sleep(&Waker::from(Arc::clone(&counted)));
        assert_eq!(counted.0.load(Ordering::Relaxed), 1);
    }
}
