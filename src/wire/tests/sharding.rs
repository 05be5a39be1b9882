//! The hash that says where data lies: it must never change.

use std::num::NonZeroU32;

use super::*;

const CLIENT_ID: &[u32] = &[1];

fn groups(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).unwrap()
}

fn group(key: &[&[u8]], count: u32) -> u32 {
    group_of(key.iter().copied(), groups(count))
}

#[test]
fn the_hash_of_a_key_is_what_it_always_was() {
    let all: Vec<u8> = (0..=255).collect();
    // Written down in docs/groups.md too: data lies where these say.
    let vectors: &[(&[&[u8]], [u32; 6])] = &[
        (&[b""], [0, 1, 2, 3, 15, 15]),
        (&[b"a"], [0, 1, 0, 3, 11, 59]),
        (&[b"client-1"], [0, 0, 2, 0, 0, 48]),
        (&[b"client-2"], [0, 0, 0, 2, 10, 58]),
        (&["Zürich".as_bytes()], [0, 0, 2, 2, 2, 50]),
        (&[b"ab", b"c"], [0, 0, 1, 2, 2, 18]),
        (&[b"a", b"bc"], [0, 1, 0, 3, 3, 3]),
        (&[&all], [0, 1, 0, 1, 5, 5]),
    ];
    for (key, expected) in vectors {
        let found = [1, 2, 3, 4, 16, 64].map(|count| group(key, count));
        assert_eq!(found, *expected, "{key:?}");
    }
}

#[test]
fn keys_that_count_up_spread_evenly() {
    for count in [2, 3, 4, 7, 16] {
        let mut entries = vec![0; count as usize];
        for n in 0..40_000 {
            entries[group(&[format!("client-{n}").as_bytes()], count) as usize] += 1;
        }
        let fair = 40_000 / count;
        for held in entries {
            assert!(
                held * 20 > fair * 19 && held * 20 < fair * 21,
                "{held} of {fair}"
            );
        }
    }
}

#[test]
fn an_entry_has_one_group_in_either_form_and_whichever_way_it_is_written() {
    for count in [1, 2, 4, 16] {
        for client_id in ["a", "client-1", "client-2", "Zürich"] {
            let expected = Placing::One(group(&[client_id.as_bytes()], count));
            let forms = [
                single(client_id, "s"),
                entry(client_id, "s"),
                [len(3, "s"), len(2, "early"), len(2, client_id)].concat(),
                len(
                    1,
                    [len(2, "s"), len(1, "early"), len(1, client_id)].concat(),
                ),
                [len(7, "tenant"), entry(client_id, "s")].concat(),
            ];
            for form in forms {
                let placed = plan().place(&piece(form), CLIENT_ID, groups(count));
                assert_eq!(placed, expected, "{client_id} of {count}");
            }
        }
    }
}

#[test]
fn a_split_batch_loses_no_entry_keeps_their_order_and_its_other_fields() {
    let clients: Vec<_> = (0..100).map(|n| format!("client-{}", n % 30)).collect();
    let entries = clients.iter().enumerate();
    let entries = entries
        .map(|(n, id)| entry(id, n.to_string()))
        .collect::<Vec<_>>();
    let whole = piece(
        [
            entries[..50].concat(),
            len(7, "tenant"),
            entries[50..].concat(),
        ]
        .concat(),
    );
    assert_eq!(plan().place(&whole, CLIENT_ID, groups(4)), Placing::Several);
    let parts = plan().by_group(&whole, CLIENT_ID, groups(4));
    assert_eq!(parts.len(), 4);
    for (number, part) in &parts {
        let own: Vec<_> = (0..100)
            .filter(|&n| group(&[clients[n].as_bytes()], 4) == *number)
            .map(|n| entries[n].clone())
            .collect();
        assert_eq!(part.entries() as usize, own.len());
        assert_eq!(part.partition(), whole.partition());
        assert_eq!(
            plan().place(part, CLIENT_ID, groups(4)),
            Placing::One(*number)
        );
        let merged = merge(std::slice::from_ref(part));
        assert_eq!(merged, [len(7, "tenant"), own.concat()].concat());
    }
    let total: u32 = parts.iter().map(|(_, part)| part.entries()).sum();
    assert_eq!(total, whole.entries());
}
