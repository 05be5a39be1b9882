//! A gRPC client as bare as HTTP/2 allows, since what is tested here are calls
//! that no client library would send.

use std::net::{Shutdown, SocketAddr};

use bytes::Bytes;
use ferry::{
    accept::frame::{HEADER, framed},
    proto::mqtt::{
        CreateSessionRaw, CreateSessionRequest, DeleteSessionRequest, ListSessionReply,
        ListSessionRequest, OldCreateSession,
    },
};
use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, Request, StatusCode, request, response::Parts};
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
};
use tonic::{Code, Status};

use super::soon;

pub(crate) const CREATE: &str = "/meta.service.mqtt.MqttService/CreateSession";
pub(crate) const DELETE: &str = "/meta.service.mqtt.MqttService/DeleteSession";
pub(crate) const LIST: &str = "/meta.service.mqtt.MqttService/ListSession";

/// One HTTP/2 connection.
pub(crate) struct Line {
    calls: SendRequest<Bytes>,
    /// `None` where it is no plain TCP socket, which alone can half close.
    socket: Option<std::net::TcpStream>,
    driver: JoinHandle<()>,
}

impl Line {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.expect("it listens");
        socket.set_nodelay(true).expect("a TCP socket");
        let socket = socket.into_std().expect("a registered socket");
        let clone = socket.try_clone().expect("file descriptors are left");
        let io = TcpStream::from_std(clone).expect("a registered socket");
        Self {
            socket: Some(socket),
            ..Self::over(io).await
        }
    }

    /// Over a socket of any kind.
    pub(crate) async fn over(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let handshake = h2::client::Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(8 << 20)
            .handshake(io);
        let (calls, connection) = handshake.await.expect("it speaks HTTP/2");
        let driver = tokio::spawn(async move {
            // How a connection ends is for its calls to say.
            let _ = connection.await;
        });
        Self {
            calls,
            socket: None,
            driver,
        }
    }

    /// Sends a call's headers.
    pub(crate) async fn begin(&self, request: Request<()>) -> Call {
        let ready = soon("room for a stream", self.calls.clone().ready()).await;
        let mut calls = ready.expect("the connection takes calls");
        let (answer, body) = calls
            .send_request(request, false)
            .expect("a well-formed request");
        Call { answer, body }
    }

    /// Sends a call whole: its headers and, as they are, the bytes of its body.
    pub(crate) async fn send(&self, request: Request<()>, body: Bytes) -> Call {
        let mut call = self.begin(request).await;
        call.write(body, true);
        call
    }

    /// A call to its end, which must be an answer.
    pub(crate) async fn ask(&self, request: Request<()>, body: Bytes) -> Answer {
        let call = self.send(request, body).await;
        call.answer().await.expect("an answer, not a reset")
    }

    /// Creates one session as an old client does; it must be acknowledged.
    pub(crate) async fn create(&self, client_id: &str, session: &[u8]) {
        let answer = self.ask(grpc(CREATE), old_form(client_id, session)).await;
        let status = answer.status();
        assert_eq!(status.code(), Code::Ok, "{client_id}: {status}");
    }

    /// The sessions of one client, or of all if `client_id` is empty.
    pub(crate) async fn list(&self, client_id: &str) -> Vec<Bytes> {
        self.list_with(&[], client_id).await
    }

    /// The same, of a call with such metadata.
    pub(crate) async fn list_with(&self, metadata: &[(&str, &str)], client_id: &str) -> Vec<Bytes> {
        let request = ListSessionRequest {
            tenant: String::new(),
            client_id: client_id.into(),
        };
        let answer = self.ask(with(LIST, metadata), frame(&request)).await;
        assert_eq!(answer.status().code(), Code::Ok, "{}", answer.status());
        let read = |message: Bytes| ListSessionReply::decode(message).expect("a listed session");
        messages(answer.body)
            .into_iter()
            .map(|message| read(message).session)
            .collect()
    }

    pub(crate) async fn delete(&self, client_id: &str) -> Status {
        let request = DeleteSessionRequest {
            client_id: client_id.into(),
            ..DeleteSessionRequest::default()
        };
        self.ask(grpc(DELETE), frame(&request)).await.status()
    }

    /// Waits until the other side has hung up.
    pub(crate) async fn closed(self) {
        soon("the other side hangs up", self.driver)
            .await
            .expect("the connection's task does not panic");
    }

    /// Hangs up, and returns once the other side has noticed and hung up too.
    pub(crate) async fn hang_up(self) {
        let socket = self.socket.as_ref().expect("a TCP socket");
        socket
            .shutdown(Shutdown::Write)
            .expect("the socket is connected");
        self.closed().await;
    }
}

/// A call under way.
pub(crate) struct Call {
    answer: ResponseFuture,
    body: SendStream<Bytes>,
}

impl Call {
    /// Sends bytes of the body; HTTP/2's flow control holds them as long as it must.
    pub(crate) fn write(&mut self, bytes: Bytes, end: bool) {
        self.body.send_data(bytes, end).expect("the call is open");
    }

    /// The body's stream itself, to look at its window.
    pub(crate) fn body(&mut self) -> &mut SendStream<Bytes> {
        &mut self.body
    }

    /// Resets the stream, as a client does that gives up.
    pub(crate) fn reset(mut self) {
        self.body.send_reset(Reason::CANCEL);
    }

    /// The answer's head, and its body as it comes.
    pub(crate) async fn head(&mut self) -> Result<(Parts, RecvStream), h2::Error> {
        let response = soon("the answer's head", &mut self.answer).await?;
        Ok(response.into_parts())
    }

    /// Everything that comes back.
    pub(crate) async fn answer(mut self) -> Result<Answer, h2::Error> {
        let (head, mut stream) = self.head().await?;
        let mut body = Vec::new();
        while let Some(bytes) = more(&mut stream).await? {
            body.extend_from_slice(&bytes);
        }
        let trailers = soon("the trailers", stream.trailers()).await?;
        Ok(Answer {
            http: head.status,
            headers: head.headers,
            body: body.into(),
            trailers: trailers.unwrap_or_default(),
        })
    }
}

/// The next bytes of a body; `None` at its end.
pub(crate) async fn more(stream: &mut RecvStream) -> Result<Option<Bytes>, h2::Error> {
    let bytes = soon("more of the body", stream.data()).await.transpose()?;
    if let Some(bytes) = &bytes {
        stream.flow_control().release_capacity(bytes.len())?;
    }
    Ok(bytes)
}

/// What came back of a call.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) http: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl Answer {
    /// The gRPC status, wherever it stands.
    pub(crate) fn status(&self) -> Status {
        Status::from_header_map(&self.trailers)
            .or_else(|| Status::from_header_map(&self.headers))
            .unwrap_or_else(|| panic!("no grpc-status: {self:?}"))
    }
}

/// The head of a well-formed gRPC call.
pub(crate) fn grpc(path: &str) -> Request<()> {
    with(path, &[])
}

/// The same with metadata.
pub(crate) fn with(path: &str, metadata: &[(&str, &str)]) -> Request<()> {
    let head = request::Builder::new()
        .method("POST")
        .uri(format!("http://ferry{path}"))
        .header("te", "trailers")
        .header("content-type", "application/grpc");
    let head = metadata
        .iter()
        .fold(head, |head, (name, value)| head.header(*name, *value));
    head.body(()).expect("a well-formed head")
}

/// A message in its gRPC frame.
pub(crate) fn frame(message: &impl Message) -> Bytes {
    framed(&message.encode_to_vec())
}

/// One session as clients up to v0.3.2 send it, framed.
pub(crate) fn old_form(client_id: &str, session: &[u8]) -> Bytes {
    frame(&OldCreateSession {
        client_id: client_id.into(),
        session: Bytes::copy_from_slice(session),
    })
}

/// Sessions as clients from v0.3.3 can send them, framed.
pub(crate) fn batch_form(sessions: &[(&str, &[u8])]) -> Bytes {
    let raw = |&(client_id, session): &(&str, &[u8])| CreateSessionRaw {
        client_id: client_id.into(),
        session: Bytes::copy_from_slice(session),
    };
    frame(&CreateSessionRequest {
        sessions: sessions.iter().map(raw).collect(),
    })
}

/// The messages of a body of whole, uncompressed frames.
pub(crate) fn messages(mut body: Bytes) -> Vec<Bytes> {
    let mut messages = Vec::new();
    while !body.is_empty() {
        let length = u32::from_be_bytes(body[1..HEADER].try_into().expect("four bytes"));
        let message = body.split_to(HEADER + length as usize);
        messages.push(message.slice(HEADER..));
    }
    messages
}
