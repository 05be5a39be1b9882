//! One call on a connection: its request on the way there, its reply on the
//! way back.
//!
//! A unary call's body is at hand when its headers are, and leaves with them
//! at once. Any other is passed on by a task of its own, message by message as
//! it comes, so that neither direction ever waits for the other.

use std::{
    error::Error,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tonic::Status;

use super::{
    dial::Target,
    fault::Fault,
    line::Line,
    link::{Carried, Link},
};

/// A frame of a body that is worth joining with the next, and how much is.
const SMALL: usize = 1 << 10;
const JOINED: usize = 16 << 10;

/// What a body's fault is, for whoever passes it on.
pub(super) type Cause = Box<dyn Error + Send + Sync>;

/// As much of a request's body as was there when the call was to be sent.
pub(super) struct Outgoing<B> {
    first: Option<Bytes>,
    last: Option<HeaderMap>,
    /// Came after the first, before the rest.
    second: Option<Bytes>,
    rest: Option<B>,
    whole: bool,
}

impl<B> Outgoing<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Takes what is there, waiting for nothing.
    pub(super) async fn of(mut body: B) -> Result<Self, B::Error> {
        let mut taken = Self {
            first: None,
            last: None,
            second: None,
            rest: None,
            whole: true,
        };
        loop {
            if body.is_end_stream() || taken.last.is_some() {
                return Ok(taken);
            }
            if taken.second.is_some() {
                break;
            }
            let frame = poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await;
            match frame {
                Poll::Pending => break,
                Poll::Ready(None) => return Ok(taken),
                Poll::Ready(Some(frame)) => taken.keep(frame?),
            }
        }
        taken.rest = Some(body);
        taken.whole = false;
        Ok(taken)
    }

    fn keep(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(bytes) if bytes.is_empty() => {}
            Ok(bytes) if self.first.is_none() => self.first = Some(bytes),
            Ok(bytes) => self.second = Some(bytes),
            Err(frame) => self.last = frame.into_trailers().ok(),
        }
    }
}

impl<B> Outgoing<B> {
    /// Whether the request has no body at all.
    pub(super) fn is_empty(&self) -> bool {
        self.whole && self.first.is_none() && self.last.is_none()
    }

    /// Whether all of it is here, so that it can be sent a second time.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }
}

impl<B> Outgoing<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Cause>,
{
    /// Writes the body. The part that is still to come is passed on by a
    /// task, which ends when the answer is dropped.
    /// A caller that leaves young, counted from `sent`, waits for `link`'s turn.
    pub(super) fn send(
        &mut self,
        mut to: SendStream<Bytes>,
        sent: Instant,
        link: &Arc<Link>,
    ) -> Result<Option<Pump>, h2::Error> {
        let early = [self.first.clone(), self.second.clone()];
        if let Some(rest) = self.rest.take() {
            let link = Arc::clone(link);
            let pump = tokio::spawn(async move {
                let Some((mut to, left)) = pump(early, rest, to).await else {
                    return;
                };
                if let Some(turn) = link.leaving.turn(sent, Instant::now()) {
                    sleep_until(turn).await;
                }
                to.send_reset(left);
            });
            return Ok(Some(Pump(pump)));
        }
        let mut early = early.into_iter().flatten().peekable();
        let trailers = self.last.clone();
        while let Some(bytes) = early.next() {
            let end = early.peek().is_none() && trailers.is_none();
            to.send_data(bytes, end)?;
        }
        if let Some(trailers) = trailers {
            to.send_trailers(trailers)?;
        }
        Ok(None)
    }
}

/// A request's body on its way; dropping it leaves the upstream's stream.
#[derive(Debug)]
pub(super) struct Pump(JoinHandle<()>);

impl Drop for Pump {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Passes the body on; with which reason its caller left it, if it did.
async fn pump<B>(
    early: [Option<Bytes>; 2],
    mut body: B,
    mut to: SendStream<Bytes>,
) -> Option<(SendStream<Bytes>, Reason)>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Cause>,
{
    for bytes in early.into_iter().flatten() {
        write(&mut to, bytes).await.ok()?;
    }
    let mut ahead = None;
    // An error says that the upstream has ended the call: nothing more is to
    // be sent, and the reply tells why.
    loop {
        let frame = match ahead.take() {
            Some(frame) => frame,
            None => next(&mut body, &mut to).await.ok()?,
        };
        match frame {
            None => {
                let _ = to.send_data(Bytes::new(), true);
                return None;
            }
            Some(Err(left)) => return Some((to, left)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(mut bytes) => {
                    let mut come = |cx: &mut Context<'_>| {
                        joined(std::mem::take(&mut bytes), || next_bytes(&mut body, cx))
                    };
                    let (bytes, other) = poll_fn(|cx| Poll::Ready(come(cx))).await;
                    ahead = other;
                    write(&mut to, bytes).await.ok()?;
                }
                Err(frame) => {
                    let _ = to.send_trailers(frame.into_trailers().unwrap_or_default());
                    return None;
                }
            },
        }
    }
}

/// What a body's next step is.
type Step = Option<Result<Frame<Bytes>, Reason>>;

/// The body's next step, told apart by whether it is bytes.
fn next_bytes<B>(body: &mut B, cx: &mut Context<'_>) -> Poll<Result<Bytes, Step>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Cause>,
{
    let step = ready!(Pin::new(body).poll_frame(cx));
    Poll::Ready(match step.map(|frame| frame.map(Frame::into_data)) {
        Some(Ok(Ok(bytes))) => Ok(bytes),
        Some(Ok(Err(frame))) => Err(Some(Ok(frame))),
        Some(Err(error)) => Err(Some(Err(reason_of(&*error.into())))),
        None => Err(None),
    })
}

/// Small frames that have come by now go on as one: each costs whoever gets it
/// what a large one costs, and who sends an upstream very many has its connection
/// closed by some. What comes `next` is bytes or something else, which is handed
/// back.
fn joined<S>(first: Bytes, mut next: impl FnMut() -> Poll<Result<Bytes, S>>) -> (Bytes, Option<S>) {
    let (mut all, mut last) = (BytesMut::new(), first);
    while last.len() < SMALL && all.len() + last.len() < JOINED {
        match next() {
            Poll::Pending => break,
            Poll::Ready(Ok(bytes)) => {
                all.extend_from_slice(&last);
                last = bytes;
            }
            Poll::Ready(Err(other)) => return (behind(all, last), Some(other)),
        }
    }
    (behind(all, last), None)
}

/// `last` behind `all`, without a copy where there is nothing before it.
fn behind(mut all: BytesMut, last: Bytes) -> Bytes {
    if all.is_empty() {
        return last;
    }
    all.extend_from_slice(&last);
    all.freeze()
}

/// The stream was ended by the other side.
struct Ended;

/// The next part of the body, or why its caller left it, unless the upstream
/// resets the stream before.
async fn next<B>(body: &mut B, to: &mut SendStream<Bytes>) -> Result<Step, Ended>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Cause>,
{
    poll_fn(|cx| {
        if to.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(Ended));
        }
        let left = |error: B::Error| reason_of(&*error.into());
        let frame = Pin::new(&mut *body).poll_frame(cx);
        frame.map(|frame| Ok(frame.map(|frame| frame.map_err(left))))
    })
    .await
}

/// Sends as the upstream's window opens, so that no more is held than came.
async fn write(to: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), Ended> {
    while !bytes.is_empty() {
        to.reserve_capacity(bytes.len());
        let room = poll_fn(|cx| to.poll_capacity(cx)).await;
        let Some(Ok(room)) = room else {
            return Err(Ended);
        };
        let part = bytes.split_to(room.min(bytes.len()));
        to.send_data(part, false).map_err(|_| Ended)?;
    }
    Ok(())
}

/// With which reason a caller left: its own where it said one.
fn reason_of(error: &(dyn Error + 'static)) -> Reason {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let said = error.downcast_ref().and_then(h2::Error::reason);
        if let Some(reason) = said.filter(|reason| *reason != Reason::NO_ERROR) {
            return reason;
        }
        cause = error.source();
    }
    Reason::CANCEL
}

/// A reply's body as it comes, small frames together, its trailers last. Dropped
/// before its end, it resets the upstream's stream.
#[derive(Debug)]
pub struct Receiving {
    stream: RecvStream,
    line: Arc<Line>,
    /// What stands behind the bytes that were given last: a fault, or the end
    /// of the data.
    ahead: Option<Option<h2::Error>>,
    ended: bool,
    _pump: Option<Pump>,
    _carried: Carried,
}

impl Receiving {
    pub(super) fn new(
        stream: RecvStream,
        line: Arc<Line>,
        pump: Option<Pump>,
        carried: Carried,
    ) -> Self {
        Self {
            stream,
            line,
            ahead: None,
            ended: false,
            _pump: pump,
            _carried: carried,
        }
    }
}

/// Why a reply broke off. Where the upstream reset its stream on purpose, that
/// is the status' source, so that a server passes the reset on as it came.
fn broken(target: &Target, error: h2::Error) -> Status {
    let mut status = Fault::of(&target.name, &error).status;
    if error.is_reset() && error.is_remote() {
        status.set_source(Arc::new(error));
    }
    status
}

impl Body for Receiving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        let broken = |error| Some(Err(broken(&this.line.target, error)));
        let data = match this.ahead.take() {
            Some(other) => other.map(Err),
            None => ready!(this.stream.poll_data(cx)),
        };
        if let Some(first) = data {
            let taken = first.and_then(|first| {
                let (bytes, other) = joined(first, || {
                    let next = ready!(this.stream.poll_data(cx));
                    Poll::Ready(next.map_or(Err(None), |bytes| bytes.map_err(Some)))
                });
                this.ahead = other;
                this.stream.flow_control().release_capacity(bytes.len())?;
                Ok(Ok(Frame::data(bytes)))
            });
            return Poll::Ready(taken.map_or_else(broken, Some));
        }
        let trailers = ready!(this.stream.poll_trailers(cx));
        this.ended = true;
        Poll::Ready(match trailers {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => broken(error),
        })
    }

    fn is_end_stream(&self) -> bool {
        let is_broken = matches!(self.ahead, Some(Some(_)));
        self.ended || !is_broken && self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is joined of these lengths, of which the first is there; then comes `end`.
    fn join(lengths: &[usize], end: Poll<&'static str>) -> (Bytes, Option<&'static str>, usize) {
        let mut rest = lengths.iter().map(|len| Bytes::from(vec![7; *len]));
        let first = rest.next().expect("something is there");
        let mut asked = 0;
        let (bytes, other) = joined(first, || {
            asked += 1;
            match rest.next() {
                Some(bytes) => Poll::Ready(Ok(bytes)),
                None => end.map(Err),
            }
        });
        (bytes, other, asked)
    }

    #[test]
    fn small_frames_that_have_come_are_joined_and_what_follows_them_is_kept() {
        let (bytes, other, _) = join(&[3, 4, 5], Poll::Pending);
        assert_eq!((bytes.len(), other), (12, None));
        let (bytes, other, _) = join(&[3, 0, 5], Poll::Ready("trailers"));
        assert_eq!((bytes.len(), other), (8, Some("trailers")));
    }

    #[test]
    fn a_large_frame_goes_on_at_once_and_what_is_joined_is_bounded() {
        let (bytes, other, asked) = join(&[SMALL, 1], Poll::Ready("trailers"));
        assert_eq!((bytes.len(), other, asked), (SMALL, None, 0));
        let (bytes, ..) = join(&[1, SMALL, 1], Poll::Pending);
        assert_eq!(bytes.len(), 1 + SMALL);
        let (bytes, ..) = join(&[SMALL - 1; 100], Poll::Pending);
        assert!(
            (JOINED..JOINED + SMALL).contains(&bytes.len()),
            "{}",
            bytes.len()
        );
    }
}
