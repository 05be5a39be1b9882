//! A load whose calls leave at their times, whatever becomes of them.

use super::*;

#[test]
fn an_open_loop_sends_at_its_times_whether_or_not_it_was_answered() {
    // Nothing is ever answered, so a closed loop of four callers would send four.
    let server = Server::start(|_| Verdict::Ignore);
    let mut plan = server.batches(1);
    plan.rate = rate(1_000, Arrivals::Even);
    plan.count = Some(200);
    plan.concurrency = NonZeroU32::new(500).unwrap();
    plan.connections = NonZeroU32::new(3).unwrap();
    let progress = Arc::new(Progress::default());
    let shown = Arc::clone(&progress);
    let started = Instant::now();
    let running = thread::spawn(move || Load::run(&plan, &shown).unwrap());
    drop(server.seen_when(|seen| seen.calls >= 200));
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(199), "sooner than its rate");
    progress.stop();
    let report = running.join().unwrap();
    assert_eq!(report.success, 0);
}

#[test]
fn an_open_loop_sends_every_session_once_and_ends_with_its_count() {
    for arrivals in [Arrivals::Poisson, Arrivals::Even] {
        let server = Server::start(|_| Verdict::Store);
        let mut plan = server.batches(7);
        plan.rate = rate(20_000, arrivals);
        plan.count = Some(1_000);
        plan.concurrency = NonZeroU32::new(100).unwrap();
        plan.connections = NonZeroU32::new(3).unwrap();
        let report = load(plan);
        assert_eq!((report.success, report.total), (1_000, 1_000));
        let seen = server.seen.lock().unwrap();
        assert_eq!((seen.sessions.len(), seen.calls), (1_000, 143));
        assert!(seen.attempts.values().all(|&attempts| attempts == 1));
    }
}

#[test]
fn calls_that_a_stall_held_up_count_from_the_time_they_were_to_leave() {
    // The server stalls at its first call. One caller: those behind it cannot
    // leave, and in a closed loop they would not have been there to wait.
    let server = Server::start(|call| match call {
        0 => Verdict::Stall(Duration::from_millis(300)),
        _ => Verdict::Store,
    });
    let mut plan = server.batches(1);
    plan.concurrency = NonZeroU32::MIN;
    plan.rate = rate(1_000, Arrivals::Even);
    plan.count = Some(200);
    let open = load(plan.clone());
    assert_eq!(open.success, 200);
    // Call n was to leave n ms after the start and left after the stall: half
    // of them waited 200 ms or more.
    assert!(open.latency_ms.p50 >= 199.0, "{:?}", open.latency_ms);
    let waited = |warning: &String| warning.contains("calls could not leave at their time");
    assert!(open.warnings.iter().any(waited), "{:?}", open.warnings);
}

#[test]
fn what_an_open_loop_could_not_send_is_told_when_its_duration_ends() {
    let server = Server::start(|_| Verdict::Ignore);
    let mut plan = server.batches(5);
    plan.rate = rate(1_000, Arrivals::Even);
    plan.count = None;
    plan.duration = Some(Duration::from_millis(400));
    plan.timeout = Duration::from_millis(800);
    let report = load(plan);
    // 80 calls of 5 were due, and four callers had one each.
    assert_eq!((report.timeout, report.total), (20, 20));
    let told = |warning: &String| warning.starts_with("380 sessions were due and not sent");
    assert!(report.warnings.iter().any(told), "{:?}", report.warnings);
}
