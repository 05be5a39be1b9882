//! The load generator against a real gRPC server on a loopback socket.

mod open_loop;

use std::{
    collections::HashMap,
    net::SocketAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use tokio::{net::TcpListener, runtime::Runtime};
use tonic::{Request, Response, Status};

use super::{plan::tests::plan, *};
use crate::proto::mqtt::{
    CreateSessionReply, CreateSessionRequest, DeleteSessionReply, DeleteSessionRequest,
    DeleteSubscribeReply, DeleteSubscribeRequest, ListSessionReply, ListSessionRequest,
    ListSubscribeReply, ListSubscribeRequest, SetSubscribeReply, SetSubscribeRequest,
    mqtt_service_server::{MqttService, MqttServiceServer},
};

/// What the server does with the n-th call (from 0).
type Script = fn(u64) -> Verdict;

enum Verdict {
    Store,
    Stall(Duration),
    Refuse,
    Ignore,
}

#[derive(Default)]
struct Seen {
    calls: u64,
    /// Calls whose caller left before they were answered.
    left: u64,
    grpc_timeouts: u64,
    sessions: HashMap<String, Vec<u8>>,
    attempts: HashMap<String, u32>,
}

/// Speaks the batch form; the generator's legacy form is tested on the bytes.
struct Stage {
    seen: Arc<Mutex<Seen>>,
    script: Script,
}

/// Counts callers that leave: dropped before it is answered.
struct Presence(Arc<Mutex<Seen>>);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.lock().unwrap().left += 1;
    }
}

#[tonic::async_trait]
impl MqttService for Stage {
    async fn create_session(
        &self,
        request: Request<CreateSessionRequest>,
    ) -> Result<Response<CreateSessionReply>, Status> {
        let verdict = {
            let mut seen = self.seen.lock().unwrap();
            seen.calls += 1;
            seen.grpc_timeouts += u64::from(request.metadata().contains_key("grpc-timeout"));
            for session in &request.get_ref().sessions {
                *seen.attempts.entry(session.client_id.clone()).or_default() += 1;
            }
            (self.script)(seen.calls - 1)
        };
        match verdict {
            Verdict::Refuse => return Err(Status::resource_exhausted("the queue is full")),
            Verdict::Ignore => {
                let _presence = Presence(Arc::clone(&self.seen));
                return std::future::pending().await;
            }
            Verdict::Stall(stall) => tokio::time::sleep(stall).await,
            Verdict::Store => {}
        }
        let mut seen = self.seen.lock().unwrap();
        for session in request.into_inner().sessions {
            seen.sessions
                .insert(session.client_id, session.session.to_vec());
        }
        Ok(Response::new(CreateSessionReply {}))
    }

    async fn delete_session(
        &self,
        _: Request<DeleteSessionRequest>,
    ) -> Result<Response<DeleteSessionReply>, Status> {
        Err(Status::unimplemented("the load deletes nothing"))
    }

    type ListSessionStream = tonic::codegen::BoxStream<ListSessionReply>;

    async fn list_session(
        &self,
        _: Request<ListSessionRequest>,
    ) -> Result<Response<Self::ListSessionStream>, Status> {
        Err(Status::unimplemented("the load lists nothing"))
    }

    async fn set_subscribe(
        &self,
        _: Request<SetSubscribeRequest>,
    ) -> Result<Response<SetSubscribeReply>, Status> {
        Err(Status::unimplemented("the load subscribes to nothing"))
    }

    async fn delete_subscribe(
        &self,
        _: Request<DeleteSubscribeRequest>,
    ) -> Result<Response<DeleteSubscribeReply>, Status> {
        Err(Status::unimplemented("the load deletes nothing"))
    }

    type ListSubscribeStream = tonic::codegen::BoxStream<ListSubscribeReply>;

    async fn list_subscribe(
        &self,
        _: Request<ListSubscribeRequest>,
    ) -> Result<Response<Self::ListSubscribeStream>, Status> {
        Err(Status::unimplemented("the load lists nothing"))
    }
}

/// A server on its own runtime, as in production.
struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    _runtime: Runtime,
}

impl Server {
    fn start(script: Script) -> Self {
        Self::start_with(script, |server| server)
    }

    fn start_with(
        script: Script,
        settings: impl FnOnce(tonic::transport::Server) -> tonic::transport::Server,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stage = Stage {
            seen: Arc::clone(&seen),
            script,
        };
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(
            settings(tonic::transport::Server::builder())
                .add_service(MqttServiceServer::new(stage))
                .serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener)),
        );
        Self {
            address,
            seen,
            _runtime: runtime,
        }
    }

    /// What it has seen once `enough` of it has: a server learns that a caller
    /// left after the caller did. A test that never sees it hangs, and is ended
    /// by its runner.
    fn seen_when(&self, enough: impl Fn(&Seen) -> bool) -> MutexGuard<'_, Seen> {
        loop {
            let seen = self.seen.lock().unwrap();
            if enough(&seen) {
                return seen;
            }
            drop(seen);
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn batches(&self, batch: u32) -> LoadPlan {
        let mut plan = plan(self.address);
        plan.form = Form::Batch;
        plan.batch_size = NonZeroU32::new(batch).unwrap();
        plan
    }
}

fn load(plan: LoadPlan) -> Report {
    let run = move || Load::run(&plan.checked().unwrap(), &Progress::default()).unwrap();
    thread::spawn(run).join().unwrap()
}

#[test]
fn every_session_reaches_the_server_once_with_its_own_bytes() {
    let server = Server::start(|_| Verdict::Store);
    let mut plan = server.batches(7);
    plan.count = Some(5_000);
    plan.concurrency = NonZeroU32::new(50).unwrap();
    plan.connections = NonZeroU32::new(3).unwrap();
    let sent = Sessions::new(&plan.client_id_prefix, plan.value_bytes);
    let report = load(plan);
    let seen = server.seen.lock().unwrap();
    assert_eq!(
        (report.total, report.success, report.failed),
        (5_000, 5_000, 0)
    );
    assert_eq!(seen.calls, 5_000_u64.div_ceil(7));
    assert_eq!(seen.sessions.len(), 5_000);
    assert!(seen.attempts.values().all(|&attempts| attempts == 1));
    assert_eq!(seen.grpc_timeouts, 0, "old clients announce no deadline");
    assert_eq!(report.acknowledged.total(), 5_000);
    for number in report.acknowledged.iter() {
        assert_eq!(seen.sessions[&sent.client_id(number)], sent.value(number));
    }
}

/// A load whose server goes once it has had a call.
fn cut_short(count: Option<u64>, duration: Option<Duration>) -> Report {
    let server = Server::start(|_| Verdict::Store);
    let plan = LoadPlan {
        count,
        duration,
        ..server.batches(1)
    };
    let report = thread::spawn(move || load(plan));
    drop(server.seen_when(|seen| seen.calls > 0));
    drop(server);
    report.join().unwrap()
}

#[test]
fn a_load_whose_server_goes_before_its_end_is_cut_short_and_says_so() {
    for (count, duration) in [
        (Some(u64::from(u32::MAX)), None),
        (None, Some(Duration::from_secs(1))),
    ] {
        let report = cut_short(count, duration);
        assert!(report.cut_short, "{:?}", report.warnings);
        let warned = |warning: &String| warning.contains("cannot connect");
        assert!(report.warnings.iter().any(warned), "{:?}", report.warnings);
    }
    let server = Server::start(|_| Verdict::Store);
    assert!(!load(server.batches(1)).cut_short);
}

#[test]
fn the_legacy_form_is_one_session_a_call() {
    // To a server of the batch form the old form holds no session, but counts
    // as a call: the bytes themselves are held against prost elsewhere.
    let server = Server::start(|_| Verdict::Store);
    let report = load(plan(server.address));
    assert_eq!(
        (report.success, server.seen.lock().unwrap().calls),
        (100, 100)
    );
}

#[test]
fn callers_wait_for_the_streams_that_the_server_allows() {
    let server = Server::start_with(
        |_| Verdict::Store,
        |server| server.max_concurrent_streams(3),
    );
    let mut plan = server.batches(1);
    plan.concurrency = NonZeroU32::new(50).unwrap();
    let report = load(plan);
    assert_eq!((report.success, report.total), (100, 100));
    let warned = |warning: &String| warning.starts_with("the server takes 3 calls at once");
    assert!(report.warnings.iter().any(warned), "{:?}", report.warnings);
}

#[test]
fn a_message_larger_than_the_servers_windows_arrives_whole() {
    let server = Server::start_with(
        |_| Verdict::Store,
        |server| {
            server
                .initial_stream_window_size(70_000)
                .initial_connection_window_size(80_000)
        },
    );
    let mut plan = server.batches(300);
    plan.value_bytes = 1_000;
    plan.count = Some(6_000);
    let sent = Sessions::new(&plan.client_id_prefix, plan.value_bytes);
    let report = load(plan);
    assert_eq!((report.success, report.total), (6_000, 6_000));
    let seen = server.seen.lock().unwrap();
    assert!((0..6_000).all(|number| seen.sessions[&sent.client_id(number)] == sent.value(number)));
}

#[test]
fn errors_are_counted_by_status_and_are_not_acknowledged() {
    let server = Server::start(|call| match call % 4 {
        0 => Verdict::Refuse,
        _ => Verdict::Store,
    });
    let mut plan = server.batches(10);
    plan.count = Some(400);
    let report = load(plan);
    assert_eq!(
        (report.success, report.failed, report.timeout),
        (300, 100, 0)
    );
    assert_eq!(report.errors["RESOURCE_EXHAUSTED: the queue is full"], 100);
    assert_eq!(report.success_rate, 75.0);
    assert_eq!(report.acknowledged.total(), 300);
}

#[test]
fn a_caller_that_gives_up_resets_its_call_and_goes_on() {
    let server = Server::start(|call| match call {
        0..3 => Verdict::Ignore,
        _ => Verdict::Store,
    });
    let mut plan = server.batches(1);
    plan.timeout = Duration::from_secs(2);
    let report = load(plan);
    assert_eq!((report.success, report.timeout, report.total), (97, 3, 100));
    let seen = server.seen_when(|seen| seen.left >= 3);
    assert_eq!((seen.left, seen.calls), (3, 100));
    assert!(seen.attempts.values().all(|&attempts| attempts == 1));
}

#[test]
fn an_announced_deadline_stands_in_every_call() {
    let server = Server::start(|_| Verdict::Store);
    let mut plan = server.batches(1);
    plan.deadline = Deadline::Announced;
    let report = load(plan);
    assert_eq!((report.success, report.total), (100, 100));
    assert_eq!(server.seen.lock().unwrap().grpc_timeouts, 100);
}

#[test]
fn an_impatient_caller_sends_the_same_session_again() {
    let server = Server::start(|call| match call {
        0..3 => Verdict::Ignore,
        _ => Verdict::Store,
    });
    let mut plan = server.batches(1);
    plan.timeout = Duration::from_secs(2);
    plan.after_timeout = AfterTimeout::SameSession;
    plan.duration = Some(Duration::from_secs(60));
    let report = load(plan);
    assert_eq!(
        (report.success, report.timeout, report.total),
        (100, 3, 103)
    );
    let seen = server.seen_when(|seen| seen.left >= 3);
    assert_eq!((seen.left, seen.sessions.len()), (3, 100));
    let again: Vec<_> = seen
        .attempts
        .values()
        .filter(|&&attempts| attempts > 1)
        .collect();
    assert_eq!(again, [&2, &2, &2]);
}

#[test]
fn a_load_ends_at_its_duration_with_every_call_accounted_for() {
    let server = Server::start(|_| Verdict::Store);
    let mut plan = server.batches(3);
    plan.count = None;
    plan.duration = Some(Duration::from_millis(300));
    let report = load(plan);
    assert!(report.success > 0);
    assert_eq!(report.success, report.total);
    assert_eq!(
        server.seen.lock().unwrap().sessions.len() as u64,
        report.success
    );
}

fn rate(sessions: u32, arrivals: Arrivals) -> Option<Rate> {
    Some(Rate {
        sessions_per_sec: NonZeroU32::new(sessions).unwrap(),
        arrivals,
    })
}

#[test]
fn a_stopped_load_says_so_and_counts_what_was_answered() {
    let server = Server::start(|call| match call {
        0..5 => Verdict::Store,
        _ => Verdict::Ignore,
    });
    let plan = server.batches(1);
    let progress = Arc::new(Progress::default());
    let shown = Arc::clone(&progress);
    let running = thread::spawn(move || Load::run(&plan, &shown).unwrap());
    drop(server.seen_when(|seen| seen.calls >= 9));
    progress.stop();
    let report = running.join().unwrap();
    assert_eq!((report.success, report.total), (5, 5));
    assert!(
        report
            .warnings
            .iter()
            .any(|warning| warning.starts_with("interrupted"))
    );
}

#[test]
fn a_lost_connection_fails_its_calls_and_the_load_goes_on_over_a_new_one() {
    let mut server = Server::start(|_| Verdict::Ignore);
    let mut plan = server.batches(1);
    let address = server.address;
    plan.count = Some(20);
    let running = thread::spawn(move || load(plan));
    drop(server.seen_when(|seen| seen.calls >= 4));
    // The server restarts on the same port, healthy.
    server._runtime.shutdown_background();
    server._runtime = Runtime::new().unwrap();
    let stage = Stage {
        seen: Arc::clone(&server.seen),
        script: |_| Verdict::Store,
    };
    let listener = server._runtime.block_on(async {
        loop {
            if let Ok(listener) = TcpListener::bind(address).await {
                break listener;
            }
            tokio::task::yield_now().await;
        }
    });
    server._runtime.spawn(
        tonic::transport::Server::builder()
            .add_service(MqttServiceServer::new(stage))
            .serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener)),
    );
    let report = running.join().unwrap();
    assert_eq!((report.success, report.failed, report.total), (16, 4, 20));
    assert!(
        report
            .errors
            .keys()
            .all(|error| error.starts_with("connection lost")),
        "{report:?}"
    );
    assert!(
        report
            .warnings
            .iter()
            .any(|warning| warning.starts_with("connected again"))
    );
}

#[test]
fn a_target_without_a_server_is_one_clear_error() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let told = Load::run(&plan(address), &Progress::default())
        .unwrap_err()
        .to_string();
    assert!(
        told.starts_with(&format!("{address}: cannot connect (")),
        "{told}"
    );
}

#[test]
fn the_flags_make_a_plan_or_a_usage_error() {
    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        flags: CreateSession,
    }
    let plan = |flags: &str| {
        let line = ["bench"].into_iter().chain(flags.split_whitespace());
        <Flags as clap::Parser>::try_parse_from(line)
            .unwrap()
            .flags
            .plan()
    };
    let batch = plan("--form batch --count 10 --concurrency 2").unwrap();
    assert_eq!((batch.batch_size.get(), batch.connections.get()), (100, 2));
    let crowd = plan("--duration 1.5m --concurrency 5000").unwrap();
    assert_eq!((crowd.batch_size.get(), crowd.connections.get()), (1, 10));
    assert_eq!(crowd.duration, Some(Duration::from_secs(90)));
    let open = plan("--duration 1s --rate 5000").unwrap();
    assert_eq!(
        (open.concurrency.get(), open.rate),
        (10_000, rate(5_000, Arrivals::Poisson))
    );
    let even = plan("--count 9 --rate 5 --arrivals even --concurrency 3").unwrap();
    assert_eq!(
        (even.concurrency.get(), even.rate),
        (3, rate(5, Arrivals::Even))
    );
    for refused in [
        "--concurrency 5",
        "--count 5 --retry --duration 1s --rate 5",
        "--count 5 --batch-size 9",
        "--count 5 --retry",
    ] {
        assert!(plan(refused).unwrap_err().is::<Usage>(), "{refused}");
    }
}
