//! The legs of the demonstration: which clients, through which entrance, to
//! which kind of group. Pure; [`super::stand`] builds what they ask for.

use std::{net::SocketAddr, num::NonZeroU32, time::Duration};

use crate::cli::bench::{AfterTimeout, Deadline, Form, LoadPlan};

/// Single calls in flight, as in the article.
const CALLERS: u32 = 2_000;
/// Connections that they share.
const CONNECTIONS: u32 = 8;
/// Batches in flight when the clients batch by hand, as in the article.
const BATCHERS: u32 = 20;
/// Sessions in each of those batches, as in the article.
const HAND_BATCH: u32 = 100;
/// Bytes of a session's value: what an MQTT broker keeps of a client.
const VALUE_BYTES: usize = 256;
/// How long a patient client waits, as in the article.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an impatient one does.
pub(super) const IMPATIENCE: Duration = Duration::from_millis(250);

/// How many proposals the group's core has under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Core {
    /// One, synced before the next, as in openraft 0.9.
    Serial,
    /// As many as come, as in openraft 0.10.
    Pipelined,
}

/// Where the clients call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entrance {
    /// The group's node itself: a call is a proposal.
    Direct,
    /// A ferry sidecar in front of it, nothing tuned.
    Ferry,
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clients {
    /// Old clients: one session a call, patient.
    Single,
    /// Rewritten clients: batches made by hand.
    ByHand,
    /// Old clients that give up after [`IMPATIENCE`] and try again.
    Impatient,
}

/// One leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leg {
    /// Its name in the JSON.
    pub(super) key: &'static str,
    /// The head of its column.
    pub(super) heading: &'static str,
    /// What happens in it.
    pub(super) story: &'static str,
    /// What it calls upon.
    pub(super) core: Core,
    /// Through which door.
    pub(super) entrance: Entrance,
    /// Who calls.
    pub(super) clients: Clients,
}

/// Every leg, in the order in which they run.
pub(super) const LEGS: [Leg; 7] = [
    Leg {
        key: "before",
        heading: "before",
        story: "single calls straight at a group that syncs one proposal at a time",
        core: Core::Serial,
        entrance: Entrance::Direct,
        clients: Clients::Single,
    },
    Leg {
        key: "ferry",
        heading: "with\nferry",
        story: "the same single calls to the same group, through ferry",
        core: Core::Serial,
        entrance: Entrance::Ferry,
        clients: Clients::Single,
    },
    Leg {
        key: "by_hand",
        heading: "by\nhand",
        story: "the same group, clients rewritten to send batches of 100",
        core: Core::Serial,
        entrance: Entrance::Direct,
        clients: Clients::ByHand,
    },
    Leg {
        key: "pipelined",
        heading: "ferry\ntoday",
        story: "single calls through ferry to the pipelined group",
        core: Core::Pipelined,
        entrance: Entrance::Ferry,
        clients: Clients::Single,
    },
    Leg {
        key: "direct_pipelined",
        heading: "pipelined\nno ferry",
        story: "single calls straight at the pipelined group",
        core: Core::Pipelined,
        entrance: Entrance::Direct,
        clients: Clients::Single,
    },
    Leg {
        key: "before_impatient",
        heading: "before,\nimpatient",
        story: "as before, with clients that give up after 250 ms and try again",
        core: Core::Serial,
        entrance: Entrance::Direct,
        clients: Clients::Impatient,
    },
    Leg {
        key: "ferry_impatient",
        heading: "with ferry,\nimpatient",
        story: "the same impatient clients, through ferry",
        core: Core::Serial,
        entrance: Entrance::Ferry,
        clients: Clients::Impatient,
    },
];

impl Leg {
    /// The load of this leg at `target`: at most `count` sessions in
    /// `duration` (impatient clients: half of it).
    pub(super) fn load(
        &self,
        target: SocketAddr,
        count: Option<u64>,
        duration: Duration,
    ) -> LoadPlan {
        let (form, batch_size, concurrency) = match self.clients {
            Clients::Single | Clients::Impatient => (Form::Legacy, 1, CALLERS),
            Clients::ByHand => (Form::Batch, HAND_BATCH, BATCHERS),
        };
        let (duration, timeout, after_timeout) = match self.clients {
            Clients::Impatient => (duration / 2, IMPATIENCE, AfterTimeout::SameSession),
            Clients::Single | Clients::ByHand => (duration, PATIENCE, AfterTimeout::NextSession),
        };
        let nonzero = |number| NonZeroU32::new(number).expect("the legs' numbers are not zero");
        LoadPlan {
            target,
            form,
            batch_size: nonzero(batch_size),
            connections: nonzero(CONNECTIONS),
            concurrency: nonzero(concurrency),
            rate: None,
            count,
            duration: Some(duration),
            timeout,
            after_timeout,
            deadline: Deadline::Kept,
            value_bytes: VALUE_BYTES,
            client_id_prefix: format!("{}-", self.key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_leg_is_a_load_that_makes_sense() {
        let target = ([127, 0, 0, 1], 1).into();
        for leg in LEGS {
            for count in [None, Some(1)] {
                let plan = leg.load(target, count, Duration::from_secs(8));
                assert!(plan.checked().is_ok(), "{leg:?}");
            }
        }
    }

    #[test]
    fn legs_that_are_compared_differ_in_one_thing() {
        let leg = |key| *LEGS.iter().find(|leg| leg.key == key).unwrap();
        for (one, other) in [
            ("before", "ferry"),
            ("before", "by_hand"),
            ("ferry", "pipelined"),
            ("pipelined", "direct_pipelined"),
            ("before", "before_impatient"),
            ("before_impatient", "ferry_impatient"),
        ] {
            let (one, other) = (leg(one), leg(other));
            let differences = u8::from(one.core != other.core)
                + u8::from(one.entrance != other.entrance)
                + u8::from(one.clients != other.clients);
            assert_eq!(differences, 1, "{one:?} {other:?}");
        }
    }
}
