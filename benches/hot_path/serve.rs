//! The servers that are measured, each in a process of its own.

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use ferry::{
    accept::{AnswerBody, Arriving, Guards, Server, answer},
    batch::Batch,
    forward::Forward,
    policy::{Listen, Policy},
    raft::GroupSettings,
    stack::{self, Batches, Stack},
    telemetry::{Metrics, names},
    upstream::{BatchReply, Call},
    wire::Plan,
};
use http::{Request, Response};
use http_body_util::BodyExt;
use prometheus::TextEncoder;
use serde::{Deserialize, Serialize};
use tokio::runtime::Builder;
use tonic::{Status, service::Routes};
use tower::Service;

use super::{machine::CpuTime, telling};

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// The load has ended before the server does: nothing is left to wait for.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    /// Reads each call and answers it with an empty message.
    Echo,
    /// ferry, over an upstream that answers at once.
    Coalescing,
    /// ferry, over its embedded group.
    Embedded,
}

/// The hidden subcommand.
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    side: Side,
    /// Threads of its runtime; 1 runs everything on the main thread.
    #[arg(long)]
    threads: usize,
    /// Where the embedded group keeps its data.
    #[arg(long)]
    data_dir: PathBuf,
}

/// What a server has counted since it began.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Counted {
    /// Calls answered OK.
    pub(crate) answered: u64,
    /// Batches sent upstream; 0 for the echo.
    pub(crate) batches: u64,
    /// What the process has used of its cores.
    pub(crate) cpu: CpuTime,
}

type Count = Box<dyn Fn() -> Counted + Send>;

impl Serve {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let mut runtime = match self.threads {
            1 => Builder::new_current_thread(),
            _ => Builder::new_multi_thread(),
        };
        if self.threads > 1 {
            runtime.worker_threads(self.threads);
        }
        let runtime = runtime.enable_all().build()?;
        runtime.block_on(async {
            match self.side {
                Side::Echo => echo().await,
                Side::Coalescing => coalescing().await,
                Side::Embedded => self.embedded().await,
            }
        })?;
        Ok(ExitCode::SUCCESS)
    }

    async fn embedded(&self) -> Result<()> {
        let metrics = Metrics::default();
        let groups = stack::open_node(GroupSettings::new(&self.data_dir), &metrics).await?;
        let count = count_entries(metrics.clone());
        let stack = Stack::proxy(&policy(), Some(groups.clone()), metrics).await?;
        told_to_end(stack.local_addr(), count)?.await;
        stack.drain(DRAIN_PATIENCE).await;
        groups
            .shutdown()
            .await
            .context("the groups do not shut down")
    }
}

/// As little as a server on ferry's HTTP/2 stack can do for a call.
async fn echo() -> Result<()> {
    let answered = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&answered);
    let respond = move |request: Request<Arriving>| {
        let answered = Arc::clone(&counted);
        async move { read_and_answer(request, &answered).await }
    };
    let server = Server::listen(ANY_PORT, Guards::default(), respond).await?;
    let count = Box::new(move || Counted {
        answered: answered.load(Ordering::Relaxed),
        ..Counted::default()
    });
    told_to_end(server.local_addr(), count)?.await;
    server.drain(DRAIN_PATIENCE).await;
    Ok(())
}

async fn read_and_answer(request: Request<Arriving>, answered: &AtomicU64) -> Response<AnswerBody> {
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        if frame.is_err() {
            return answer::status(Status::cancelled("the call broke off"));
        }
    }
    answered.fetch_add(1, Ordering::Relaxed);
    answer::message(&[])
}

/// The sidecar as it is, but for the upstream.
async fn coalescing() -> Result<()> {
    let policy = policy();
    let metrics = Metrics::default();
    let count = count_entries(metrics.clone());
    let upstream = Instant {
        plans: policy
            .methods
            .iter()
            .map(|method| Arc::clone(&method.plan))
            .collect(),
    };
    let forward = Forward::Local(Box::new(Routes::default().prepare()));
    let stack = Stack::over(&policy, Batches::new(upstream), forward, metrics).await?;
    told_to_end(stack.local_addr(), count)?.await;
    stack.drain(DRAIN_PATIENCE).await;
    Ok(())
}

/// The built-in policy as it is, but for where it listens.
fn policy() -> Policy {
    let mut policy = Policy::embedded();
    policy.listen = vec![Listen::from(ANY_PORT)];
    policy.admin = None;
    policy
}

/// Merges each batch, as every upstream must, and answers at once.
#[derive(Clone, Debug)]
struct Instant {
    plans: Arc<[Arc<Plan>]>,
}

impl Service<Batch<Call>> for Instant {
    type Response = BatchReply;
    type Error = Status;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<BatchReply, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, batch: Batch<Call>) -> Self::Future {
        let plans = Arc::clone(&self.plans);
        Box::pin(async move {
            let plan = &plans[batch.requests[0].method];
            let pieces = || batch.requests.iter().map(|call| &call.piece);
            let mut merged = BytesMut::with_capacity(plan.merged_len(pieces()));
            plan.merge(pieces(), &mut merged);
            std::hint::black_box(merged.freeze());
            Ok(BatchReply::Same(Bytes::new()))
        })
    }
}

/// What the sidecar's own metrics say.
fn count_entries(metrics: Metrics) -> Count {
    Box::new(move || {
        let scraped = TextEncoder::new()
            .encode_to_string(&metrics.registry().gather())
            .expect("the metrics are well-formed");
        let sum = |name: &str, label: &str| {
            let samples = scraped.lines().filter(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with('{'))
                    && line.contains(label)
            });
            let values = samples.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
            values.sum()
        };
        Counted {
            answered: sum(names::ENTRIES, "outcome=\"committed\""),
            batches: sum(names::BATCHES, ""),
            cpu: CpuTime::default(),
        }
    })
}

/// Says where the server listens, and tells its counts until its input ends.
fn told_to_end(address: SocketAddr, count: Count) -> Result<impl Future<Output = ()>> {
    telling::told_to_end(address, move || {
        Ok(Counted {
            cpu: CpuTime::of_this_process()?,
            ..count()
        })
    })
}
