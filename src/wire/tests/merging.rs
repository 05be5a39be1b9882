//! What merging writes.

use super::*;

#[test]
fn batch_form_pieces_are_concatenated_in_order() {
    let first = [entry("a", "1"), entry("b", "2")].concat();
    let second = entry("c", "3");
    let pieces = [piece(&first), piece(&second)];
    assert_eq!(pieces[0].entries(), 2);
    assert_eq!(merge(&pieces), [first, second].concat());
}

#[test]
fn the_single_form_becomes_an_entry_among_the_others() {
    let pieces = [
        piece(single("a", "1")),
        piece(entry("b", "2")),
        piece(single("c", [9; 300])),
    ];
    assert_eq!(pieces[0].form(), Form::Single);
    assert_eq!(
        merge(&pieces),
        [entry("a", "1"), entry("b", "2"), entry("c", [9; 300])].concat()
    );
}

#[test]
fn a_message_of_one_form_is_not_copied_by_the_scan() {
    let message = Bytes::from(entry("a", "1"));
    let Ok(Scan::Merge(piece)) = plan().scan(&message) else {
        panic!("must merge")
    };
    assert_eq!(piece.message().as_ptr(), message.as_ptr());
    assert!(piece.partition().is_empty());
}

#[test]
fn of_a_single_form_field_that_stands_twice_the_last_stays_last() {
    let twice = [len(2, "old"), len(3, "s"), len(2, "new")].concat();
    let inside = [len(1, "old"), len(2, "s"), len(1, "new")].concat();
    assert_eq!(merge(&[piece(twice)]), len(1, inside));
}

#[test]
fn top_level_fields_are_written_once_wherever_they_stand() {
    let tenant = len(7, "t");
    let before = [tenant.clone(), entry("a", "1"), entry("b", "2")].concat();
    let between = [entry("c", "3"), tenant.clone(), entry("d", "4")].concat();
    let pieces = [piece(before), piece(between)];
    assert_eq!(pieces[0].partition(), pieces[1].partition());
    let entries = [
        entry("a", "1"),
        entry("b", "2"),
        entry("c", "3"),
        entry("d", "4"),
    ];
    assert_eq!(merge(&pieces), [tenant, entries.concat()].concat());
}

#[test]
fn the_partition_is_the_same_for_the_same_fields_in_another_order() {
    let (tenant, label) = (len(7, "t"), len(8, "l"));
    let one = piece([tenant.clone(), label.clone(), entry("a", "1")].concat());
    let other = piece([label.clone(), entry("b", "2"), tenant.clone()].concat());
    assert_eq!(one.partition(), &[tenant, label].concat());
    assert_eq!(one.partition(), other.partition());
}

#[test]
fn the_order_of_a_list_outside_the_entries_is_kept() {
    let (x, y) = (len(8, "x"), len(8, "y"));
    let one = piece([x.clone(), entry("a", "1"), y.clone()].concat());
    let other = piece([y, entry("a", "1"), x].concat());
    assert_ne!(one.partition(), other.partition());
}

#[test]
fn an_absent_field_and_one_set_to_its_default_are_different_partitions() {
    let unset = piece(entry("a", "1"));
    let empty = piece([len(7, ""), entry("a", "1")].concat());
    assert_ne!(unset.partition(), empty.partition());
}

#[test]
#[should_panic(expected = "pieces of one batch are of one partition")]
fn pieces_of_different_partitions_are_never_written_together() {
    merge(&[
        piece([len(7, "mine"), entry("a", "1")].concat()),
        piece(entry("b", "2")),
    ]);
}

#[test]
fn numbers_of_more_than_one_byte_are_lifted_with_the_right_length() {
    let mut shape = shape();
    shape.messages[1].fields.push(field(17, "name", Kind::Text));
    shape.messages[0].fields.push(Field {
        repeated: true,
        ..field(1000, "wide", Kind::Message(1))
    });
    shape.batched_field = 1000;
    let lift = shape.lift.as_mut().expect("the shape has a lift");
    lift.fields.push(LiftedField {
        from: 5,
        name: "name".into(),
        to: 17,
    });
    let plan = Plan::new(shape).expect("the shape is sound");
    let message = Bytes::from([len(2, "a"), len(3, "1"), len(5, "n")].concat());
    let Ok(Scan::Merge(piece)) = plan.scan(&message) else {
        panic!("must merge")
    };
    let mut out = BytesMut::new();
    plan.merge([&piece], &mut out);
    assert_eq!(
        out,
        len(1000, [len(1, "a"), len(2, "1"), len(17, "n")].concat())
    );
    assert_eq!(out.len(), piece.merged_len());
}

#[test]
fn a_shape_that_contradicts_itself_is_no_plan() {
    let broken = |change: fn(&mut Shape)| {
        let mut shape = shape();
        change(&mut shape);
        Plan::new(shape).expect_err("must be refused")
    };
    assert_eq!(
        broken(|s| s.request = 3),
        PlanError::NoMessage { index: 3, len: 3 }
    );
    assert!(matches!(
        broken(|s| s.batched_field = 9),
        PlanError::NoField { number: 9, .. }
    ));
    assert!(matches!(
        broken(|s| s.batched_field = 7),
        PlanError::NotBatchable { .. }
    ));
    assert!(matches!(
        broken(|s| s.entry_key = vec![6]),
        PlanError::NoField { number: 6, .. }
    ));
    assert!(matches!(
        broken(|s| s.messages[1].fields[1].number = 1),
        PlanError::TwiceTheNumber { number: 1, .. }
    ));
    assert!(matches!(
        broken(|s| s.messages[0].fields[1].number = 2),
        PlanError::Ambiguous { number: 2, .. }
    ));
    assert!(matches!(
        broken(|s| s.messages[2].fields = (1..66)
            .map(|n| Field {
                require: Require::Filled,
                ..field(n, "f", Kind::Bytes)
            })
            .collect()),
        PlanError::ManyRequired { count: 65, .. }
    ));
}

#[test]
fn a_type_of_hundreds_of_fields_finds_each_and_no_other() {
    let mut shape = shape();
    shape.messages[2].fields = (10..600)
        .step_by(2)
        .map(|number| field(number, "f", Kind::Varint))
        .collect();
    let plan = Plan::new(shape).expect("the shape is sound");
    let with = |number| {
        let will = len(3, num(number, 1));
        let message = Bytes::from(len(1, [len(1, "a"), len(2, "1"), will].concat()));
        matches!(plan.scan(&message), Ok(Scan::Merge(_)))
    };
    for number in 1..700 {
        assert_eq!(
            with(number),
            (10..600).contains(&number) && number % 2 == 0,
            "{number}"
        );
    }
}
