//! Where the time of a batch goes, in virtual time.

use tokio::time::Instant;

use super::*;

/// Remembers where the time of each batch went.
#[derive(Default)]
struct Watched(Mutex<Vec<Stages>>);

impl Coalesce<u32> for Watched {
    type Partition = ();

    fn partition(&self, _: &u32) {}

    fn answered(&self, (): &(), answering: &Answering<'_>) {
        self.0.lock().unwrap().push(answering.stages());
    }
}

const MERGING: Duration = Duration::from_millis(3);
const WORK: Duration = Duration::from_millis(10);

#[tokio::test(start_paused = true)]
async fn a_batch_tells_what_it_waited_for_company_and_for_its_permit_and_where_it_was_then() {
    let watched = Arc::new(Watched::default());
    let one_at_a_time = LimitSettings {
        algorithm: Algorithm::Fixed,
        max: 1,
        ..LimitSettings::default()
    };
    let service = ServiceBuilder::new()
        .layer(BatchLayer::new(Arc::clone(&watched)))
        .layer(LimitLayer::new(one_at_a_time))
        .service(tower::service_fn(async |batch: Batch<u32>| {
            sleep(MERGING).await;
            batch.handed_over.on(Instant::now().into_std());
            sleep(WORK).await;
            Ok::<_, Infallible>(batch.requests.to_vec())
        }));
    let first = tokio::spawn(service.clone().oneshot(1));
    sleep(Duration::from_millis(1)).await;
    // It finds the only permit taken, lingers for company and then waits.
    service.oneshot(2).await.expect("it is served");
    first.await.expect("no panic").expect("it is served");
    let stages = watched.0.lock().unwrap().clone();
    let [first, second] = stages[..] else {
        panic!("two batches: {stages:?}");
    };
    let alone = Stages {
        queue: Duration::ZERO,
        permit: Duration::ZERO,
        wire: MERGING,
        upstream: WORK,
        reply: Duration::ZERO,
    };
    assert_eq!(first, alone, "an idle upstream keeps nobody waiting");
    assert_eq!((second.wire, second.upstream), (MERGING, WORK));
    let waited = MERGING + WORK - Duration::from_millis(1);
    assert_eq!(second.queue + second.permit, waited, "{second:?}");
    assert!(second.permit > second.queue, "{second:?}");
}
