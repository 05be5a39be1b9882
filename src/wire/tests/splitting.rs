//! What each caller gets of a reply.

use super::*;

/// Txn's reply split into Put's: `responses[].response_put`, header filled.
fn put_plan() -> Plan {
    let put = Message {
        name: "test.Put".into(),
        fields: vec![field(1, "key", Kind::Bytes)],
    };
    Plan::new(Shape {
        messages: vec![put],
        batched_field: 2,
        wrap: Some(Wrap {
            field: Some((2, "request_put".into())),
            ..Wrap::default()
        }),
        reply: ReplyShape {
            name: "test.TxnReply".into(),
            require: vec![Held {
                number: 2,
                name: "succeeded".into(),
                is: HeldIs::Flag(true),
                code: 10,
            }],
            split: Some(SplitShape {
                subresponse: 3,
                name: "responses".into(),
                unwrap: Some((2, "response_put".into())),
                fill: vec![Fill {
                    from: 1,
                    to: 1,
                    message: true,
                    ..Fill::default()
                }],
                status: Some(StatusShape {
                    field: 9,
                    code: 1,
                    message: 2,
                    details: Some(3),
                }),
            }),
        },
        ..Shape::default()
    })
    .expect("the shape is sound")
}

/// CreateSession, had its reply one result an entry and one number for all.
fn results_plan() -> Plan {
    let mut shape = shape();
    shape.reply = ReplyShape {
        name: "test.Reply".into(),
        require: Vec::new(),
        split: Some(SplitShape {
            subresponse: 1,
            name: "results".into(),
            status: Some(StatusShape {
                field: 2,
                code: 1,
                message: 2,
                details: None,
            }),
            ..SplitShape::default()
        }),
    };
    Plan::new(shape).expect("the shape is sound")
}

fn pieces(plan: &Plan, messages: &[Vec<u8>]) -> Vec<Piece> {
    let piece = |message: &Vec<u8>| match plan.scan(&Bytes::copy_from_slice(message)) {
        Ok(Scan::Merge(piece)) => piece,
        other => panic!("must merge: {other:?}"),
    };
    messages.iter().map(piece).collect()
}

fn split(
    plan: &Plan,
    messages: &[Vec<u8>],
    reply: Vec<u8>,
) -> Result<Vec<Result<Vec<u8>, EntryStatus>>, SplitError> {
    match plan.split(&Bytes::from(reply), &pieces(plan, messages))? {
        Parts::Each(parts) => Ok(parts
            .into_iter()
            .map(|part| part.map(|part| part.to_vec()))
            .collect()),
        Parts::Same(reply) => Ok(vec![Ok(reply.to_vec())]),
    }
}

fn puts(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| len(1, format!("k{n}"))).collect()
}

/// A reply to puts, its header with cluster 7, revision 9 and term 4.
fn reply(responses: &[Vec<u8>]) -> Vec<u8> {
    let header = len(1, [num(1, 7), num(3, 9), num(4, 4)].concat());
    let responses = responses
        .iter()
        .map(|content| len(3, content))
        .collect::<Vec<_>>();
    [header, num(2, 1), responses.concat()].concat()
}

#[test]
fn each_caller_gets_its_own_sub_response_with_the_header_filled_in() {
    let revision = len(1, num(3, 8));
    let first = len(2, [revision, len(2, "before")].concat());
    let second = len(2, "");
    let parts = split(&put_plan(), &puts(2), reply(&[first, second])).expect("it splits");
    // What the sub-response says of itself stands; what it is silent on is filled.
    let own = len(1, [num(1, 7), num(4, 4), num(3, 8)].concat());
    assert_eq!(parts[0], Ok([own, len(2, "before")].concat()));
    let outer = len(1, [num(1, 7), num(3, 9), num(4, 4)].concat());
    assert_eq!(parts[1], Ok(outer));
}

#[test]
fn a_reply_without_one_part_for_each_entry_is_an_error_to_all() {
    let plan = put_plan();
    let one = len(2, len(1, num(3, 8)));
    for count in [0, 1, 3] {
        let error = split(&plan, &puts(2), reply(&vec![one.clone(); count]));
        assert_eq!(
            error,
            Err(SplitError::Count {
                field: "responses".into(),
                entries: 2,
                parts: count
            })
        );
    }
}

#[test]
fn a_sub_response_that_answers_something_else_is_an_error_to_all() {
    let (put, range) = (len(2, ""), len(1, ""));
    let error = split(&put_plan(), &puts(2), reply(&[put, range])).expect_err("it is no put");
    assert_eq!(
        error.to_string(),
        "the upstream's reply: responses[1] has no response_put: it answers something else"
    );
}

#[test]
fn a_reply_that_is_no_protobuf_is_an_error_to_all() {
    let plan = put_plan();
    let whole = reply(&[len(2, len(2, "before"))]);
    for end in 1..whole.len() {
        // Cut between records the header or the flag is missing, or the part.
        assert!(
            split(&plan, &puts(1), whole[..end].to_vec()).is_err(),
            "{end}"
        );
    }
    let number = [num(2, 1), num(3, 5)].concat();
    assert!(matches!(
        split(&plan, &puts(1), number),
        Err(SplitError::NotAMessage { .. })
    ));
}

#[test]
fn a_reply_whose_condition_does_not_hold_is_a_status_to_all() {
    let plan = put_plan();
    for flag in [Vec::new(), num(2, 0), [num(2, 1), num(2, 0)].concat()] {
        let refused = [flag, len(3, len(2, ""))].concat();
        let error = split(&plan, &puts(1), refused).expect_err("it did not succeed");
        assert_eq!(
            error.to_string(),
            "the upstream's reply: test.TxnReply.succeeded is false: must be true for its batch to stand"
        );
        assert!(matches!(error, SplitError::NotHeld { code: 10, .. }));
    }
}

#[test]
fn an_entrys_own_status_is_its_callers_alone() {
    let status = [num(1, 5), len(2, "no such key"), len(3, "detail")].concat();
    let failed = len(9, &status);
    let fine = [len(9, num(1, 0)), len(2, "")].concat();
    let parts = split(&put_plan(), &puts(2), reply(&[failed, fine])).expect("it splits");
    assert_eq!(
        parts[0],
        Err(EntryStatus {
            code: 5,
            message: "no such key".into(),
            details: Bytes::from(status),
        })
    );
    assert!(parts[1].is_ok());
}

#[test]
fn a_caller_of_the_same_type_gets_the_reply_with_its_own_results_alone() {
    let plan = results_plan();
    let two = [entry("a", "1"), entry("b", "2")].concat();
    let calls = [two, entry("c", "3"), single("d", "4")];
    let results: Vec<_> = (0..4).map(|n| len(1, num(1, n + 10))).collect();
    let term = num(5, 3);
    let whole = [results[..2].concat(), term.clone(), results[2..].concat()].concat();
    let parts = split(&plan, &calls, whole).expect("it splits");
    assert_eq!(parts[0], Ok([term.clone(), results[..2].concat()].concat()));
    assert_eq!(parts[1], Ok([term.clone(), results[2].clone()].concat()));
    assert_eq!(parts[2], Ok([term, results[3].clone()].concat()));
}

#[test]
fn a_failed_entry_of_the_single_form_is_a_status_since_its_caller_knows_no_results() {
    let plan = results_plan();
    let failed = len(1, len(2, [num(1, 3), len(2, "bad")].concat()));
    let calls = [entry("a", "1"), single("b", "2")];
    let parts = split(&plan, &calls, [failed.clone(), failed.clone()].concat()).expect("it splits");
    assert_eq!(parts[0], Ok(failed));
    assert!(matches!(&parts[1], Err(status) if status.code == 3 && status.message == "bad"));
}

#[test]
fn a_scalar_that_a_part_lacks_is_filled_and_one_that_it_has_is_kept() {
    let plan = Plan::new(Shape {
        messages: vec![Message {
            name: "test.Put".into(),
            fields: vec![field(1, "key", Kind::Bytes)],
        }],
        batched_field: 2,
        wrap: Some(Wrap::default()),
        reply: ReplyShape {
            split: Some(SplitShape {
                subresponse: 3,
                fill: vec![Fill {
                    from: 4,
                    to: 6,
                    message: false,
                    ..Fill::default()
                }],
                ..SplitShape::default()
            }),
            ..ReplyShape::default()
        },
        ..Shape::default()
    })
    .expect("the shape is sound");
    let whole = [num(4, 77), len(3, num(1, 1)), len(3, num(6, 2))].concat();
    let parts = split(&plan, &puts(2), whole).expect("it splits");
    assert_eq!(parts[0], Ok([num(6, 77), num(1, 1)].concat()));
    assert_eq!(parts[1], Ok(num(6, 2)));
}

#[test]
fn a_reply_that_is_copied_is_not_looked_at() {
    let noise = vec![0xff; 9];
    assert_eq!(
        split(&plan(), &[entry("a", "1")], noise.clone()),
        Ok(vec![Ok(noise)])
    );
}
