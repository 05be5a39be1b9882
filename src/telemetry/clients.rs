//! Who is connected to the admin address: so many at once, and none for long
//! without a whole request. Each of them is a descriptor, and the process has
//! no more of those than its limit says, which the calls' connections need.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::ConnectInfo,
    http::{Request, Response, StatusCode},
    response::IntoResponse,
};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
    time::timeout,
};
use tower::ServiceExt;

use super::Refusals;
use crate::transport::mortal;

/// Connections at once; past it the oldest one that is not being answered
/// makes room.
const CONNECTIONS: usize = 64;

/// How long a connection may be open without a request's head, and how long
/// its body may take after that. A scrape comes more often.
const REQUEST_WITHIN: Duration = Duration::from_secs(30);

/// Most bytes of a request's body: a line of text.
const BODY: usize = 64 << 10;

/// Waits after a failed accept, as the other listeners do.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers with `pages` until `stopped` says so, or nobody is left to.
pub(super) async fn serve(
    listener: TcpListener,
    address: SocketAddr,
    pages: Router,
    refusals: Arc<Refusals>,
    mut stopped: watch::Receiver<()>,
) {
    let mut clients = Vec::new();
    let leave = stopped.clone();
    loop {
        let accepted = tokio::select! {
            // An error says that the sender is gone, which is the signal.
            _ = stopped.changed() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) if make_room(&mut clients).await => {
                mortal(&socket);
                let answering = Arc::default();
                let task = connection(
                    socket,
                    peer,
                    pages.clone(),
                    Arc::clone(&answering),
                    leave.clone(),
                );
                let task = tokio::spawn(task);
                clients.push(Client { task, answering });
            }
            Ok(_) => {
                let why = format!("{CONNECTIONS} others are being answered");
                refusals.not_accepted(&address, &why);
            }
            Err(error) => {
                refusals.not_accepted(&address, &error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection, while its task goes on.
struct Client {
    task: JoinHandle<()>,
    answering: Arc<AtomicBool>,
}

/// Whether one more may come, in the place of the oldest that waits for a
/// request, or for its rest, if need be. `clients` stand as they came.
async fn make_room(clients: &mut Vec<Client>) -> bool {
    clients.retain(|client| !client.task.is_finished());
    if clients.len() < CONNECTIONS {
        return true;
    }
    let waits = |client: &Client| !client.answering.load(Relaxed);
    let Some(oldest) = clients.iter().position(waits) else {
        return false;
    };
    let oldest = clients.remove(oldest).task;
    oldest.abort();
    // Its socket is closed by then, however many come at once.
    let _ = oldest.await;
    true
}

async fn connection(
    socket: impl AsyncRead + AsyncWrite + Unpin,
    peer: SocketAddr,
    pages: Router,
    answering: Arc<AtomicBool>,
    mut leave: watch::Receiver<()>,
) {
    let answer = service_fn(move |request| {
        let (pages, answering) = (pages.clone(), Arc::clone(&answering));
        async move { Ok::<_, Infallible>(answered(request, peer, pages, answering).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_WITHIN)
        .serve_connection(TokioIo::new(socket), answer);
    let mut connection = pin!(connection);
    // How it ends is the client's affair: it left, or took too long.
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = leave.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the admin address");
    }
}

/// The answer to a request, once it is whole.
async fn answered(
    request: Request<Incoming>,
    peer: SocketAddr,
    pages: Router,
    answering: Arc<AtomicBool>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let whole = timeout(REQUEST_WITHIN, Limited::new(body, BODY).collect());
    let body = match whole.await {
        Ok(Ok(body)) => Body::from(body.to_bytes()),
        Ok(Err(error)) => {
            let why = format!("body: {error}; must be a line of text, {BODY} bytes at most\n");
            return (StatusCode::BAD_REQUEST, why).into_response();
        }
        Err(_) => {
            let why = format!("body: not whole within {} s\n", REQUEST_WITHIN.as_secs());
            return (StatusCode::REQUEST_TIMEOUT, why).into_response();
        }
    };
    let answering = Answering::new(answering);
    let mut request = Request::from_parts(head, body);
    request.extensions_mut().insert(ConnectInfo(peer));
    let response = match pages.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    response.map(|body| {
        Body::new(Answer {
            body,
            _answering: answering,
        })
    })
}

/// From a whole request to the last byte of its answer.
struct Answering(Arc<AtomicBool>);

impl Answering {
    fn new(answering: Arc<AtomicBool>) -> Self {
        answering.store(true, Relaxed);
        Self(answering)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.store(false, Relaxed);
    }
}

/// An answer's body, which says when it has gone out.
struct Answer {
    body: Body,
    _answering: Answering,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::{get, post};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        net::TcpStream,
    };

    use super::*;

    /// `/`, and `/echo`, and `/long`, whose answer never ends.
    fn pages() -> Router {
        let long = || async { Body::from_stream(futures_util::stream::pending::<Chunk>()) };
        Router::new()
            .route("/", get(|| async { "here" }))
            .route("/echo", post(|text: String| async { text }))
            .route("/long", get(long))
    }

    async fn listening() -> (SocketAddr, Arc<Refusals>, watch::Sender<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = watch::channel(());
        let refusals = Arc::<Refusals>::default();
        let serving = serve(listener, address, pages(), Arc::clone(&refusals), stopped);
        tokio::spawn(serving);
        (address, refusals, stop)
    }

    type Chunk = Result<Bytes, Infallible>;

    async fn saying(address: SocketAddr, text: &str) -> TcpStream {
        let mut socket = TcpStream::connect(address).await.expect("it listens");
        let said = socket.write_all(text.as_bytes()).await;
        said.expect("it listens");
        socket
    }

    /// All that comes until the other side closes.
    async fn told(mut socket: impl AsyncRead + Unpin) -> String {
        let mut told = Vec::new();
        // A reset ends it as well.
        let _ = socket.read_to_end(&mut told).await;
        String::from_utf8(told).expect("text")
    }

    const HALF: &str = "GET / HTTP/1.1\r\nhost: here\r\n";
    const WHOLE: &str = "GET / HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n";
    const LONG: &str = "GET /long HTTP/1.1\r\nhost: here\r\n\r\n";

    /// What who says no more than `text` is told, in the time of a test.
    async fn told_in_time(text: &str) -> String {
        let (mut here, there) = duplex(1 << 10);
        let (_stop, stopped) = watch::channel(());
        let peer = ([127, 0, 0, 1], 1).into();
        let serving = connection(there, peer, pages(), Arc::default(), stopped);
        here.write_all(text.as_bytes()).await.expect("it is open");
        let both = async { tokio::join!(serving, told(here)).1 };
        let both = timeout(REQUEST_WITHIN * 2, both).await;
        both.expect("it is closed in time")
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_request_is_closed_in_time() {
        for half in ["", HALF] {
            assert_eq!(told_in_time(half).await, "");
        }
        let body = "POST /echo HTTP/1.1\r\nhost: here\r\ncontent-length: 9\r\n\r\nhalf";
        let half = told_in_time(body).await;
        assert!(half.starts_with("HTTP/1.1 408"), "{half}");
        let whole = told_in_time(&body.replace('9', "4")).await;
        assert!(whole.starts_with("HTTP/1.1 200"), "{whole}");
    }

    #[tokio::test]
    async fn past_the_bound_the_oldest_half_request_makes_room_and_an_answer_does_not() {
        let (address, refusals, _stop) = listening().await;
        let mut long = saying(address, LONG).await;
        // Its head has come, so it is being answered.
        long.read_u8().await.expect("an answer begins");
        let mut halves = Vec::new();
        for _ in 1..CONNECTIONS {
            halves.push(saying(address, HALF).await);
        }
        let whole = told(saying(address, WHOLE).await).await;
        assert!(whole.ends_with("\r\n\r\nhere"), "{whole}");
        assert!(whole.contains("content-length: 4"), "{whole}");
        assert_eq!(told(halves.swap_remove(0)).await, "");
        assert_eq!(refusals.unaccepted(), 0);
        let rest = timeout(Duration::ZERO, told(long)).await;
        assert!(rest.is_err(), "it was cut");
    }

    #[tokio::test]
    async fn past_the_bound_of_answers_one_more_is_refused_and_counted() {
        let (address, refusals, _stop) = listening().await;
        let mut long = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut one = saying(address, LONG).await;
            one.read_u8().await.expect("an answer begins");
            long.push(one);
        }
        assert_eq!(told(saying(address, WHOLE).await).await, "");
        assert_eq!(refusals.unaccepted(), 1);
    }
}
