//! Calls to the addresses of an upstream: each on the line that carries less
//! of two, again on another where the first certainly did not take it.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Uri, request::Parts, uri::PathAndQuery};
use http_body::Body;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::{
    dial::Target,
    exchange::{Cause, Outgoing, Receiving},
    fault::Fault,
    leave::Awaited,
    line::{Line, LineSettings},
    pool::Pool,
};
use crate::transport::{ClientFiles, Endpoint, Fresh, TlsError};

/// How often one call is sent where nobody took it: an upstream that goes
/// away says so to many calls at once, and its successor is there.
const ATTEMPTS: usize = 3;
/// In which a call says how long it will wait.
const GRPC_TIMEOUT: &str = "grpc-timeout";

/// Connections to an upstream's endpoints: HTTP/2, made at once and made
/// again when lost.
#[derive(Clone, Debug)]
pub struct RemoteClient {
    pool: Arc<Pool>,
    endpoints: Arc<[Endpoint]>,
    tls: ClientFiles,
}

impl RemoteClient {
    /// A client of these endpoints, with `tls` for those of `https`. It must
    /// be made inside a tokio runtime, in which it begins to connect.
    ///
    /// # Errors
    /// If an endpoint is of `https` and the files cannot be used.
    ///
    /// # Panics
    /// If there is no endpoint, or one without a host; the policy's loader
    /// sees to that.
    pub fn new(endpoints: Vec<Endpoint>, tls: ClientFiles) -> Result<Self, TlsError> {
        assert!(!endpoints.is_empty(), "a remote upstream has an endpoint");
        let mut secured = None;
        if endpoints.iter().any(Endpoint::is_secure) {
            secured = Some(Arc::new(Fresh::new(tls.clone())?));
        }
        let target = |endpoint| Target::of(endpoint, &tls, secured.as_ref());
        let targets = endpoints.iter().map(target).collect();
        Ok(Self {
            pool: Pool::start(targets, LineSettings::default()),
            endpoints: endpoints.into(),
            tls,
        })
    }

    /// Whether this is what a client of these would be.
    #[must_use]
    pub fn serves(&self, endpoints: &[Endpoint], tls: &ClientFiles) -> bool {
        *self.endpoints == *endpoints && self.tls == *tls
    }

    /// Why no call can be sent now; `None` if one can, or will soon be tried.
    #[must_use]
    pub fn unreachable(&self) -> Option<String> {
        self.pool.unreachable()
    }

    /// Sends a request, its path and headers unchanged but for what remains
    /// of its time until `deadline`.
    ///
    /// # Errors
    /// UNAVAILABLE if it was certainly not taken; what gRPC makes of the
    /// upstream's reset; UNKNOWN if the connection was lost under it;
    /// DEADLINE_EXCEEDED if its time was up before it could be sent.
    pub async fn send<B>(
        &self,
        request: Request<B>,
        deadline: Option<Instant>,
    ) -> Result<Response<Receiving>, Status>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Cause>,
    {
        let (mut head, body) = request.into_parts();
        let mut body = Outgoing::of(body)
            .await
            .map_err(|_| Status::cancelled("the call broke off"))?;
        let mut attempt = 1;
        loop {
            let fault = match self.attempt(&mut head, &mut body, deadline).await {
                Ok(response) => return Ok(response),
                Err(fault) => fault,
            };
            if !(fault.untaken && body.is_whole() && attempt < ATTEMPTS) {
                return Err(fault.status);
            }
            attempt += 1;
        }
    }

    async fn attempt<B>(
        &self,
        head: &mut Parts,
        body: &mut Outgoing<B>,
        deadline: Option<Instant>,
    ) -> Result<Response<Receiving>, Fault>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Cause>,
    {
        let (line, link) = match self.pool.ready() {
            Some(ready) => ready,
            None => in_time(deadline, self.pool.connected()).await??,
        };
        let request = addressed(head, &line, body.is_whole(), deadline)?;
        let (mut calls, carried) = link.take(&line.burden);
        let (answer, to) = calls
            .send_request(request, body.is_empty())
            .map_err(|error| {
                line.lose(&link);
                Fault::unreachable(&line.target.name, &error.to_string())
            })?;
        // The machine takes no more of a stream that the upstream has ended;
        // why it has is what the answer says.
        let sent = Instant::now();
        let pump = body.send(to, sent, &link).unwrap_or_default();
        match Awaited::new(answer, (calls, carried), sent, &link).await {
            Ok((response, carried)) => {
                Ok(response.map(|stream| Receiving::new(stream, line, pump, carried)))
            }
            Err(error) => {
                let fault = Fault::of(&line.target.name, &error);
                if fault.untaken && error.is_go_away() {
                    line.lose(&link);
                }
                Err(fault)
            }
        }
    }
}

/// What `ready` comes to, unless the call's time is up before.
async fn in_time<T>(deadline: Option<Instant>, ready: impl Future<Output = T>) -> Result<T, Fault> {
    let Some(deadline) = deadline else {
        return Ok(ready.await);
    };
    let late = |_| Fault::late("while no connection could be had");
    timeout_at(deadline, ready).await.map_err(late)
}

/// The call's head as `line` is to get it. One that may have to be sent
/// again keeps its own.
fn addressed(
    head: &mut Parts,
    line: &Line,
    keep: bool,
    deadline: Option<Instant>,
) -> Result<Request<()>, Fault> {
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(line.target.scheme.clone());
    // To whom the caller speaks is the upstream's to read; one that proves
    // its name is called by it.
    let own = &line.target.authority;
    let authority = match line.target.is_secure() {
        true => own,
        false => head.uri.authority().unwrap_or(own),
    };
    uri.authority = Some(authority.clone());
    let path = head.uri.path_and_query().cloned();
    uri.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    let uri = Uri::from_parts(uri).expect("scheme, authority and path make a URI");

    let mut request = Request::new(());
    request.method_mut().clone_from(&head.method);
    *request.uri_mut() = uri;
    *request.headers_mut() = match keep {
        true => head.headers.clone(),
        false => std::mem::take(&mut head.headers),
    };
    if let Some(deadline) = deadline {
        tell_time(request.headers_mut(), deadline)?;
    }
    Ok(request)
}

/// Says what remains of the call's time, where the call says anything of it.
/// gRPC allows eight digits.
fn tell_time(headers: &mut HeaderMap, deadline: Instant) -> Result<(), Fault> {
    let Some(told) = headers.get_mut(GRPC_TIMEOUT) else {
        return Ok(());
    };
    let remains = deadline.saturating_duration_since(Instant::now());
    let (value, unit) = match remains.as_micros() {
        0 => return Err(Fault::late("before it could be sent")),
        micros if micros < 100_000_000 => (micros, 'u'),
        micros if micros < 100_000_000_000 => (micros / 1_000, 'm'),
        micros => ((micros / 1_000_000).min(99_999_999), 'S'),
    };
    let value = HeaderValue::try_from(format!("{value}{unit}"));
    *told = value.expect("digits and a letter");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, time::Duration};

    use http_body_util::Empty;
    use tokio::time::timeout;

    use super::*;
    use crate::upstream::stub::{Came, Stub};

    /// The time of a call, and more than any of these tests needs.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// Answers a call's head, and all of it unless it is a dialogue.
    fn answered() -> impl Fn(Came) + Clone {
        let open = Arc::<Mutex<Vec<_>>>::default();
        move |(request, mut respond)| {
            let dialogue = request.uri().path() == "/s.S/Dialogue";
            let body = respond.send_response(Response::new(()), !dialogue);
            let mut open = open.lock().expect("no holder panics");
            open.push(body.expect("the caller is there"));
        }
    }

    /// A client that waits very long for a connection.
    fn client_of(stub: &Stub) -> RemoteClient {
        let uri = format!("http://{}", stub.address);
        let endpoint = Endpoint::Url(uri.parse().expect("a URI"));
        let target = Target::of(&endpoint, &ClientFiles::default(), None);
        let settings = LineSettings {
            connect_timeout: PATIENCE * 100,
            ..LineSettings::default()
        };
        RemoteClient {
            pool: Pool::start(vec![target], settings),
            endpoints: [endpoint].into(),
            tls: ClientFiles::default(),
        }
    }

    async fn call(client: &RemoteClient, path: &'static str) -> Option<Response<Receiving>> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = Uri::from_static(path);
        let answer = timeout(PATIENCE, client.send(request, None)).await.ok()?;
        Some(answer.expect("the upstream answers"))
    }

    async fn two_dialogues(client: &RemoteClient) -> [Option<Response<Receiving>>; 2] {
        let dialogue = || call(client, "/s.S/Dialogue");
        [dialogue().await, dialogue().await]
    }

    #[tokio::test]
    async fn a_call_for_which_a_connection_has_no_stream_left_gets_another_connection() {
        let stub = Stub::start(2, 9, answered()).await;
        let client = client_of(&stub);
        let open = two_dialogues(&client).await;
        assert_eq!(stub.connections(), 1);
        let answer = call(&client, "/s.S/Ask").await;
        answer.expect("it does not wait for a dialogue to end");
        assert_eq!(stub.connections(), 2);
        drop(open);
    }

    #[tokio::test]
    async fn a_call_takes_the_first_stream_that_ends_where_no_other_connection_comes_about() {
        let stub = Stub::start(2, 1, answered()).await;
        let client = client_of(&stub);
        let mut open = two_dialogues(&client).await;
        let ends = async {
            while stub.connections() < 2 {
                tokio::task::yield_now().await;
            }
            open[0] = None;
        };
        let both = async { tokio::join!(call(&client, "/s.S/Ask"), ends) };
        let (answer, ()) = timeout(PATIENCE, both).await.expect("one more is tried");
        answer.expect("a stream has become free");
    }

    fn told(remains: Duration) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_TIMEOUT, HeaderValue::from_static("1H"));
        tell_time(&mut headers, Instant::now() + remains).ok()?;
        let told = headers[GRPC_TIMEOUT].to_str().expect("digits and a letter");
        Some(told.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_says_what_remains_of_its_time_in_eight_digits() {
        for (remains, said) in [
            (Duration::from_micros(1), "1u"),
            (Duration::from_millis(1_500), "1500000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(3_600 * 24 * 365), "31536000S"),
            (Duration::from_secs(99_999_999 * 3_600), "99999999S"),
        ] {
            assert_eq!(told(remains).as_deref(), Some(said));
        }
        assert_eq!(told(Duration::ZERO), None, "its time is up");
    }

    #[tokio::test]
    async fn a_call_without_a_timeout_gets_none() {
        let mut headers = HeaderMap::new();
        let deadline = Instant::now() + Duration::from_secs(1);
        assert!(tell_time(&mut headers, deadline).is_ok());
        assert!(headers.is_empty());
    }
}
