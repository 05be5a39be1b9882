//! What an entry costs in [`BatchLayer`]: into the queue, into a batch, and its
//! answer back, beside the least that could do it (a channel and a oneshot) and
//! beside the crates that do something like it.
//!
//! One thread, so that the time is the work and not its distribution; an
//! upstream that answers at once; `queued` calls are made before the first
//! answer is awaited. It needs the library core alone:
//! `cargo bench --no-default-features --bench batch_layer` (`-- --arm BatchLayer`
//! runs one way alone, for a profiler).

// What a bench prints is its result, and its clock is the wall's.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use std::{
    convert::Infallible,
    env,
    future::{Ready, ready},
    hint::black_box,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use ferry::{
    batch::{Batch, BatchLayer, Coalesce, QueueSettings, Weight, WindowSettings},
    limit::{LimitLayer, LimitSettings},
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{mpsc, oneshot},
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, buffer::Buffer, service_fn};
use tower_batch_control::{BatchControl, RequestWeight};

/// Entries of a batch, in every arm that has batches.
const BATCH: u32 = 500;
/// Calls that are made before the first answer is awaited.
const QUEUED: [usize; 3] = [1_000, 10_000, 100_000];
/// Calls of one measurement, at least.
const CALLS: usize = 200_000;
/// What holds: no more than this over the bare pair, and this flat.
const OVER_BARE: f64 = 1.3;
const FLAT: f64 = 0.15;

/// What a caller asks.
#[derive(Clone, Copy, Debug)]
struct Number(u64);

impl RequestWeight for Number {}

/// One way from a caller to an upstream and back.
type Arm = (&'static str, fn(&Runtime, usize) -> Duration);

const ARMS: [Arm; 5] = [
    ("mpsc + oneshot", bare),
    ("BatchLayer", batch_layer),
    ("BatchLayer + LimitLayer", batch_and_limit),
    ("tower::buffer", buffer),
    ("tower-batch-control", batch_control),
];

fn main() {
    let rounds = rounds();
    let alone = argument("--arm");
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime of one thread");
    // ns an entry, by arm and by what is queued.
    let mut seen = vec![vec![Vec::new(); QUEUED.len()]; ARMS.len()];
    for round in 0..rounds {
        for (place, queued) in QUEUED.into_iter().enumerate() {
            for turn in 0..ARMS.len() {
                // Whoever goes first finds the caches colder: they take turns.
                let arm = (turn + round) % ARMS.len();
                if alone.as_ref().is_some_and(|name| name != ARMS[arm].0) {
                    continue;
                }
                let times = CALLS.div_ceil(queued);
                let spent: Duration = (0..times).map(|_| (ARMS[arm].1)(&runtime, queued)).sum();
                let entry = spent.as_secs_f64() * 1e9 / (times * queued) as f64;
                seen[arm][place].push(entry);
            }
        }
    }
    if alone.is_some() {
        for (entry, queued) in seen.into_iter().flat_map(|arm| arm.into_iter().zip(QUEUED)) {
            entry
                .iter()
                .for_each(|ns| println!("{queued:>8} queued: {ns:.0} ns an entry"));
        }
        return;
    }
    report(&seen.into_iter().map(medians).collect::<Vec<_>>(), rounds);
}

/// `--rounds N`; 9 unless told otherwise. What cargo adds is passed over.
fn rounds() -> usize {
    let rounds = argument("--rounds").map_or(9, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("--rounds {text}: must be a number, such as 9"))
    });
    rounds.max(1)
}

/// What follows `name` on the command line.
fn argument(name: &str) -> Option<String> {
    env::args().skip_while(|argument| argument != name).nth(1)
}

fn medians(by_queued: Vec<Vec<f64>>) -> Vec<f64> {
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    by_queued.into_iter().map(median).collect()
}

fn report(medians: &[Vec<f64>], rounds: usize) {
    println!("ns an entry, by calls queued at once; medians of {rounds} rounds");
    print!("{:<26}", "");
    QUEUED.iter().for_each(|queued| print!("{queued:>10}"));
    println!("{:>12}{:>8}", "of the bare", "flat");
    for ((name, _), entry) in ARMS.iter().zip(medians) {
        print!("{name:<26}");
        entry.iter().for_each(|ns| print!("{ns:>10.0}"));
        println!(
            "{:>12.2}{:>7.0}%",
            worst(entry, medians),
            spread(entry) * 100.0
        );
    }
    let (over, flat) = (worst(&medians[1], medians), spread(&medians[1]));
    println!(
        "BatchLayer: {over:.2} of the bare pair at most (goal {OVER_BARE}): {}; \
         flat within ±{:.0} % (goal ±{:.0} %): {}",
        verdict(over <= OVER_BARE),
        flat * 100.0,
        FLAT * 100.0,
        verdict(flat <= FLAT)
    );
}

/// The largest ratio to the bare pair, over what is queued.
fn worst(entry: &[f64], medians: &[Vec<f64>]) -> f64 {
    let ratios = entry.iter().zip(&medians[0]).map(|(ns, bare)| ns / bare);
    ratios.fold(0.0, f64::max)
}

/// How far the figures lie from their middle, as a part of it.
fn spread(entry: &[f64]) -> f64 {
    let (least, most) = entry.iter().fold((f64::MAX, 0.0_f64), |(least, most), ns| {
        (least.min(*ns), most.max(*ns))
    });
    (most - least) / (most + least)
}

const fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

/// Makes `queued` calls, then awaits their answers; how long both took.
async fn call_all<S>(mut service: S, queued: usize) -> Duration
where
    S: Service<Number>,
    S::Error: std::fmt::Debug,
{
    let mut answers = Vec::with_capacity(queued);
    let start = Instant::now();
    for number in 0..queued as u64 {
        let service = service.ready().await.expect("it is never broken");
        answers.push(service.call(black_box(Number(number))));
    }
    for answer in answers {
        // What is told depends on the arm; that it is told is what counts.
        drop(black_box(answer.await.expect("every call is answered")));
    }
    start.elapsed()
}

fn bare(runtime: &Runtime, queued: usize) -> Duration {
    runtime.block_on(async {
        let (calls, mut arrived) = mpsc::unbounded_channel::<(Number, oneshot::Sender<Number>)>();
        tokio::spawn(async move {
            let mut batch = Vec::with_capacity(BATCH as usize);
            while arrived.recv_many(&mut batch, BATCH as usize).await > 0 {
                for (number, reply) in batch.drain(..) {
                    let _ = reply.send(number);
                }
            }
        });
        let call = service_fn(move |number| {
            let (reply, answer) = oneshot::channel();
            let sent = calls.send((number, reply));
            sent.expect("the task ends with its channel");
            answer
        });
        call_all(call, queued).await
    })
}

/// Every number may share a batch with every other one, and waits for ever.
struct Together;

impl Coalesce<Number> for Together {
    type Partition = ();

    fn partition(&self, _: &Number) {}

    fn weight(&self, _: &Number) -> Weight {
        Weight {
            entries: 1,
            overhead: 0,
            bytes: size_of::<Number>(),
        }
    }

    fn window(&self, (): &()) -> WindowSettings {
        WindowSettings {
            max_entries: BATCH.try_into().expect("a batch holds something"),
            ..WindowSettings::default()
        }
    }

    fn queue(&self, (): &()) -> QueueSettings {
        QueueSettings {
            max_wait: Duration::from_secs(3_600),
            ..QueueSettings::default()
        }
    }
}

fn numbers(batch: Batch<Number>) -> Ready<Result<Vec<Number>, Infallible>> {
    ready(Ok(batch.requests.to_vec()))
}

fn batch_layer(runtime: &Runtime, queued: usize) -> Duration {
    runtime.block_on(async {
        let layer = BatchLayer::new(Arc::new(Together));
        call_all(layer.layer(service_fn(numbers)), queued).await
    })
}

fn batch_and_limit(runtime: &Runtime, queued: usize) -> Duration {
    runtime.block_on(async {
        let service = ServiceBuilder::new()
            .layer(BatchLayer::new(Arc::new(Together)))
            .layer(LimitLayer::new(LimitSettings::default()))
            .service(service_fn(numbers));
        call_all(service, queued).await
    })
}

fn buffer(runtime: &Runtime, queued: usize) -> Duration {
    runtime.block_on(async {
        let single = service_fn(|number: Number| ready(Ok::<_, Infallible>(number)));
        call_all(Buffer::new(single, queued), queued).await
    })
}

/// Answers each number of a batch as it comes, and has nothing to flush: the
/// least that tower-batch-control can stand in front of.
#[derive(Clone)]
struct Flushed;

impl Service<BatchControl<Number>> for Flushed {
    type Response = u64;
    type Error = tower::BoxError;
    type Future = Ready<Result<u64, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: BatchControl<Number>) -> Self::Future {
        ready(Ok(match request {
            BatchControl::Item(number) => number.0,
            BatchControl::Flush => 0,
        }))
    }
}

fn batch_control(runtime: &Runtime, queued: usize) -> Duration {
    runtime.block_on(async {
        // It lets at most 64 batches wait: with more queued, callers wait too.
        let linger = Duration::from_millis(2);
        let service = tower_batch_control::Batch::new(Flushed, BATCH as usize, 64, linger);
        call_all(service, queued).await
    })
}
