//! A clock that wakes a task at a moment, to within some 50 µs. The runtime's own
//! has ticks of a millisecond, and an open loop whose calls left up to one late
//! would measure its own clock where the server takes less. Where the system has
//! no such timer, the runtime's it is.

use std::{
    io,
    task::{Context, Poll},
    time::Instant,
};

#[cfg(target_os = "linux")]
pub(super) use linux::Alarm;
#[cfg(not(target_os = "linux"))]
pub(super) use portable::Alarm;

#[cfg(target_os = "linux")]
mod linux {
    use std::os::fd::OwnedFd;

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::io::unix::AsyncFd;

    use super::*;

    /// Set to a moment, it wakes the task that polled it.
    #[derive(Debug)]
    pub(in super::super) struct Alarm {
        timer: AsyncFd<OwnedFd>,
        set: Option<Instant>,
    }

    impl Alarm {
        /// One that is not set; it must be made inside a runtime.
        pub(in super::super) fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            #[expect(
                deprecated,
                reason = "its heir is unsafe, and asks for what an `OwnedFd` keeps: one open file"
            )]
            let timer = AsyncFd::new(timer)?;
            Ok(Self { timer, set: None })
        }

        /// Ready at `moment` or later; until then the task of `cx` will be woken.
        pub(in super::super) fn poll_until(
            &mut self,
            moment: Instant,
            cx: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            if self.set != Some(moment) {
                let now = tokio::time::Instant::now().into_std();
                let left = moment.saturating_duration_since(now);
                // A timer that is set to nothing is not set.
                if left.is_zero() {
                    return Poll::Ready(Ok(()));
                }
                let nothing = Timespec::default();
                let left = Itimerspec {
                    it_interval: nothing,
                    it_value: left.try_into().unwrap_or(nothing),
                };
                timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &left)?;
                self.set = Some(moment);
            }
            loop {
                let Poll::Ready(rung) = self.timer.poll_read_ready(cx)? else {
                    return Poll::Pending;
                };
                let mut rung = rung;
                let mut times = [0; 8];
                match rustix::io::read(self.timer.get_ref(), &mut times) {
                    Ok(_) => {
                        self.set = None;
                        return Poll::Ready(Ok(()));
                    }
                    // It rang for an earlier moment, before it was set anew.
                    Err(rustix::io::Errno::AGAIN) => rung.clear_ready(),
                    Err(error) => return Poll::Ready(Err(error.into())),
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod portable {
    use std::{pin::Pin, time::Duration};

    use tokio::time::{Sleep, sleep};

    use super::*;

    /// Set to a moment, it wakes the task that polled it.
    #[derive(Debug)]
    pub(in super::super) struct Alarm(Pin<Box<Sleep>>);

    impl Alarm {
        /// One that is not set; it must be made inside a runtime.
        pub(in super::super) fn new() -> io::Result<Self> {
            Ok(Self(Box::pin(sleep(Duration::ZERO))))
        }

        /// Ready at `moment` or later; until then the task of `cx` will be woken.
        pub(in super::super) fn poll_until(
            &mut self,
            moment: Instant,
            cx: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            self.0.as_mut().reset(moment.into());
            self.0.as_mut().poll(cx).map(Ok)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use super::*;

    #[tokio::test]
    async fn it_rings_at_its_moment_and_not_before_also_when_it_is_set_anew() {
        let mut alarm = Alarm::new().unwrap();
        let now = || tokio::time::Instant::now().into_std();
        let far = now() + Duration::from_secs(3_600);
        let first = poll_fn(|cx| Poll::Ready(alarm.poll_until(far, cx).is_pending())).await;
        assert!(first, "an hour has not passed");
        let near = now() + Duration::from_millis(2);
        poll_fn(|cx| alarm.poll_until(near, cx)).await.unwrap();
        assert!(now() >= near);
        let past = near - Duration::from_secs(1);
        poll_fn(|cx| alarm.poll_until(past, cx)).await.unwrap();
    }
}
