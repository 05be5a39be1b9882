//! Is what was acknowledged there? Every acknowledged session is looked up in
//! the group's own state, bytes and all; and a random sample is read back as a
//! client would, over the socket.

use std::{collections::hash_map::RandomState, hash::BuildHasher, net::SocketAddr};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::{
    cli::bench::{Acknowledged, Sessions},
    proto::mqtt::{ListSessionRequest, mqtt_service_client::MqttServiceClient},
};

/// Sessions read back over the socket in each leg.
const SAMPLED_A_LEG: u64 = 100;

/// What was looked for, and what was not found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Verified {
    /// Acknowledged sessions looked up in the group's state: all of them.
    pub(super) acknowledged: u64,
    /// Of those, read back over the socket.
    pub(super) sampled: u64,
    /// Acknowledged sessions that one or the other did not find, or found with
    /// other bytes.
    pub(super) missing: u64,
}

impl Verified {
    /// Both together.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            acknowledged: self.acknowledged + other.acknowledged,
            sampled: self.sampled + other.sampled,
            missing: self.missing + other.missing,
        }
    }
}

/// Ticks off the acknowledged sessions as the state is read through once.
#[derive(Debug)]
pub(super) struct Roll<'a> {
    sessions: &'a Sessions,
    acknowledged: &'a Acknowledged,
    present: Acknowledged,
}

impl<'a> Roll<'a> {
    /// A roll on which nobody has answered.
    pub(super) fn new(sessions: &'a Sessions, acknowledged: &'a Acknowledged) -> Self {
        Self {
            sessions,
            acknowledged,
            present: Acknowledged::default(),
        }
    }

    /// The state holds `value` under `client_id`.
    pub(super) fn call(&mut self, client_id: &[u8], value: &[u8]) {
        if let Some(number) = self.sessions.number(client_id)
            && self.acknowledged.contains(number)
            && self.sessions.value(number) == value
        {
            self.present.insert(number);
        }
    }

    /// How many acknowledged sessions did not answer.
    pub(super) fn missing(&self) -> u64 {
        self.acknowledged.total() - self.present.total()
    }
}

/// Reads a random sample of `acknowledged` back from `server`.
///
/// # Errors
/// If the server cannot be asked; a session that it does not have is no error
/// here but counted.
pub(super) async fn read_back(
    server: SocketAddr,
    sessions: &Sessions,
    acknowledged: &Acknowledged,
) -> Result<Verified> {
    let mut client = MqttServiceClient::connect(format!("http://{server}"))
        .await
        .with_context(|| format!("{server}: no connection to read sessions back"))?;
    let dice = RandomState::new();
    let mut throws = 0_u64;
    let sample = acknowledged.sample(SAMPLED_A_LEG, || {
        throws += 1;
        dice.hash_one(throws)
    });
    let mut verified = Verified {
        sampled: sample.len() as u64,
        ..Verified::default()
    };
    for number in sample {
        let client_id = sessions.client_id(number);
        let request = ListSessionRequest {
            client_id: client_id.clone(),
            tenant: String::new(),
        };
        let listed = client.list_session(request).await;
        let mut listed = listed
            .with_context(|| format!("{server}: ListSession {client_id}"))?
            .into_inner();
        let mut values = Vec::new();
        while let Some(reply) = listed
            .message()
            .await
            .with_context(|| format!("{server}: ListSession {client_id}"))?
        {
            ensure!(
                values.len() < 2,
                "{server}: ListSession {client_id} lists other sessions too"
            );
            values.push(reply.session);
        }
        let found = matches!(&values[..], [value] if *value == sessions.value(number));
        verified.missing += u64::from(!found);
    }
    Ok(verified)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roll_misses_what_is_absent_or_has_other_bytes() {
        let sessions = Sessions::new("s-", 16);
        let mut acknowledged = Acknowledged::default();
        (0..10).for_each(|number| acknowledged.insert(number));
        let mut roll = Roll::new(&sessions, &acknowledged);
        assert_eq!(roll.missing(), 10);
        // 8 is absent, 9 has the bytes of another; 10 was never acknowledged,
        // and somebody else's sessions do not count.
        for number in (0..8).chain([10]) {
            roll.call(
                sessions.client_id(number).as_bytes(),
                &sessions.value(number),
            );
        }
        roll.call(b"s-9", &sessions.value(8));
        roll.call(b"x-9", &sessions.value(9));
        assert_eq!(roll.missing(), 2);
        roll.call(b"s-9", &sessions.value(9));
        assert_eq!(roll.missing(), 1);
    }
}
