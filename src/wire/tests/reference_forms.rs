//! Wrapping and splitting held against prost-reflect, which decodes, builds and
//! encodes for real: etcd's Put and Txn as the shipped policy has them.

use std::{
    path::Path,
    sync::{Arc, LazyLock},
};

use proptest::prelude::*;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage, Value};

use super::{
    reference::{has_long_number, hostile_edits, is_long, record, widths},
    *,
};
use crate::policy::Policy;

const ETCD: &str = include_str!("../../../policies/etcd.yaml");

/// The shipped plan.
static PLAN: LazyLock<Arc<Plan>> = LazyLock::new(|| {
    let policy = Policy::load(ETCD, Path::new("etcd.yaml"));
    policy.expect("a test loads it").methods.remove(0).plan
});

/// One pool for all: messages of two pools are never equal.
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(crate::proto::ETCD).expect("the build script wrote it")
});

fn plan() -> Arc<Plan> {
    Arc::clone(&PLAN)
}

fn kind(name: &str) -> MessageDescriptor {
    let kind = POOL.get_message_by_name(&format!("etcdserverpb.{name}"));
    kind.expect("it is described")
}

fn decoded(name: &str, bytes: impl bytes::Buf) -> Option<DynamicMessage> {
    DynamicMessage::decode(kind(name), bytes).ok()
}

/// Some records of a key and a value, in any order and number, the key last
/// and not empty.
fn put_request() -> impl Strategy<Value = Vec<u8>> {
    let bytes = |least| prop::collection::vec(any::<u8>(), least..200);
    let any = (1..=2_u32, bytes(0), widths()).prop_map(|(n, v, w)| record(n, &v, w));
    let key = (bytes(1), widths()).prop_map(|(v, w)| record(1, &v, w));
    (prop::collection::vec(any, 0..3), key).prop_map(|(rest, key)| [rest.concat(), key].concat())
}

fn header() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![Just(None), (1..u64::MAX).prop_map(Some)];
    prop::collection::vec(number, 4).prop_map(|numbers| {
        let set = (1..).zip(numbers).filter_map(|(n, v)| Some(num(n, v?)));
        set.collect::<Vec<_>>().concat()
    })
}

/// A sub-response: a put's reply with or without a header, and what else etcd
/// says in it, in any order.
fn response() -> impl Strategy<Value = Vec<u8>> {
    let headers = prop::collection::vec(header().prop_map(|header| len(1, header)), 0..3);
    let previous = prop::option::of(prop::collection::vec(any::<u8>(), 0..40));
    (headers, previous, any::<bool>()).prop_map(|(headers, previous, first)| {
        let previous = previous.map_or(Vec::new(), |kv| len(2, kv));
        match first {
            true => len(2, [previous, headers.concat()].concat()),
            false => len(2, [headers.concat(), previous].concat()),
        }
    })
}

fn reply(responses: usize) -> impl Strategy<Value = Vec<u8>> {
    let responses = prop::collection::vec((response(), widths()), responses);
    (prop::option::of(header()), responses, any::<bool>()).prop_map(|(outer, parts, late)| {
        let outer = outer.map_or(Vec::new(), |header| len(1, header));
        let parts = parts.iter().map(|(part, widths)| record(3, part, *widths));
        let parts = parts.collect::<Vec<_>>().concat();
        match late {
            true => [num(2, 1), parts, outer].concat(),
            false => [outer, parts, num(2, 1)].concat(),
        }
    })
}

/// What a transaction with these puts is.
fn transaction(puts: &[Vec<u8>]) -> DynamicMessage {
    let mut transaction = DynamicMessage::new(kind("TxnRequest"));
    let operations = puts.iter().map(|put| {
        let mut operation = DynamicMessage::new(kind("RequestOp"));
        let put = decoded("PutRequest", &put[..]).expect("what the strategy makes is valid");
        operation.set_field_by_name("request_put", Value::Message(put));
        Value::Message(operation)
    });
    transaction.set_field_by_name("success", Value::List(operations.collect()));
    transaction
}

/// What each of `count` callers is to hear; `None` where the reply is no
/// success of as many puts.
fn answers(reply: &[u8], count: usize) -> Option<Vec<DynamicMessage>> {
    let reply = decoded("TxnResponse", reply)?;
    if reply.get_field_by_name("succeeded")?.as_bool() != Some(true) {
        return None;
    }
    let outer = reply.get_field_by_name("header")?;
    let has_outer = reply.has_field_by_name("header");
    let responses = reply.get_field_by_name("responses")?;
    let responses = responses.as_list()?;
    let answer = |response: &Value| {
        let response = response.as_message()?;
        if !response.has_field_by_name("response_put") {
            return None;
        }
        let put = response.get_field_by_name("response_put")?;
        let mut put = put.as_message()?.clone();
        let mut header = put.get_field_by_name("header")?.as_message()?.clone();
        for field in header.descriptor().fields() {
            let outer = outer.as_message()?;
            if !header.has_field(&field) && outer.has_field(&field) {
                header.set_field(&field, outer.get_field(&field).into_owned());
            }
        }
        if has_outer || put.has_field_by_name("header") {
            put.set_field_by_name("header", Value::Message(header));
        }
        Some(put)
    };
    let answers: Option<Vec<_>> = responses.iter().map(answer).collect();
    answers.filter(|answers| answers.len() == count)
}

fn scanned(plan: &Plan, put: &[u8]) -> Piece {
    match plan.scan(&Bytes::copy_from_slice(put)) {
        Ok(Scan::Merge(piece)) => piece,
        other => panic!("must merge: {other:?}"),
    }
}

fn parts(plan: &Plan, reply: Vec<u8>, count: usize) -> Option<Vec<Bytes>> {
    let piece = scanned(plan, &len(1, "k"));
    match plan.split(&Bytes::from(reply), vec![&piece; count]) {
        Ok(Parts::Each(parts)) => {
            assert_eq!(parts.len(), count, "one part each");
            Some(
                parts
                    .into_iter()
                    .map(|part| part.expect("no status is asked for"))
                    .collect(),
            )
        }
        Ok(Parts::Same(_)) => panic!("the policy splits"),
        Err(_) => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn wrapped_requests_decode_to_the_transaction_that_they_should_be(
        puts in prop::collection::vec(put_request(), 1..12),
    ) {
        let plan = plan();
        let pieces: Vec<_> = puts.iter().map(|put| scanned(&plan, put)).collect();
        let mut out = BytesMut::new();
        plan.merge(&pieces, &mut out);
        prop_assert_eq!(out.len(), plan.merged_len(&pieces));
        prop_assert_eq!(decoded("TxnRequest", out), Some(transaction(&puts)));
    }

    #[test]
    fn a_reply_splits_into_what_each_caller_should_hear(
        (count, reply) in (0..8_usize).prop_flat_map(|count| (Just(count), reply(count))),
    ) {
        let expected = answers(&reply, count).expect("what the strategy makes is a success");
        let parts = parts(&plan(), reply, count).expect("it splits");
        let parts: Option<Vec<_>> =
            parts.into_iter().map(|part| decoded("PutResponse", part)).collect();
        prop_assert_eq!(parts, Some(expected));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn hostile_puts_are_judged_as_prost_judges_them(bytes in hostile_edits(put_request())) {
        let plan = plan();
        let (truth, long) = (decoded("PutRequest", &bytes[..]), has_long_number(&bytes));
        match plan.scan(&Bytes::from(bytes.clone())) {
            Ok(Scan::Merge(piece)) => {
                let mut out = BytesMut::new();
                plan.merge([&piece], &mut out);
                prop_assert_eq!(decoded("TxnRequest", out), Some(transaction(&[bytes])));
            }
            Ok(Scan::Alone(..)) => prop_assert!(truth.is_some()),
            Err(error) if is_long(&error) => prop_assert!(long, "{}", error),
            Err(error) => prop_assert_eq!(error.is_malformed(), truth.is_none(), "{}", error),
        }
    }

    #[test]
    fn hostile_replies_are_split_rightly_or_not_at_all(
        (count, reply) in (0..4_usize).prop_flat_map(|count| (Just(count), hostile_edits(reply(count)))),
    ) {
        let expected = answers(&reply, count);
        let long = has_long_number(&reply);
        let ours = parts(&plan(), reply, count);
        // What is malformed inside a part is for its caller to find.
        if let Some(expected) = expected.filter(|_| ours.is_some() || !long) {
            let parts = ours.expect("what decodes to a success splits");
            let parts: Option<Vec<_>> =
                parts.into_iter().map(|part| decoded("PutResponse", part)).collect();
            prop_assert_eq!(parts, Some(expected));
        }
    }
}
