//! More load than the upstream can carry, over real sockets.

use tonic::Code;

use crate::support::{
    admin,
    client::{CREATE, grpc, old_form, with},
    served::Served,
    soon,
    upstream::Upstream,
};

#[tokio::test]
async fn a_batch_whose_time_is_up_is_not_dropped_and_keeps_its_place_until_the_late_reply() {
    let upstream = Upstream::holding().await;
    let served = Served::before(upstream.address).await;
    let line = served.line().await;
    let request = with(CREATE, &[("grpc-timeout", "50m")]);
    let hasty = line.ask(request, old_form("hasty", b"session")).await;
    assert_eq!(hasty.status().code(), Code::DeadlineExceeded);
    let next = line.send(grpc(CREATE), old_form("next", b"session")).await;
    served.until_queued(1).await;
    assert_eq!(upstream.left(), 0, "the upstream's call goes on");
    assert_eq!(upstream.batches().len(), 1);
    assert_eq!(
        admin::metric(served.admin(), "ferry_in_flight", "").await,
        1.0
    );
    upstream.answer();
    upstream.until_batches(2).await;
    upstream.answer();
    let answer = soon("the next caller's answer", next.answer()).await;
    let answer = answer.expect("an answer, not a reset");
    assert_eq!(answer.status().code(), Code::Ok, "{}", answer.status());
}
