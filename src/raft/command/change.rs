//! The changes that a command asks for, sliced out of its message.

use super::{
    CommandError,
    field::{each, last_of, next},
    kind::Kind,
};

/// One change to one of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// Store this session, in place of any earlier one.
    PutSession {
        /// The session's key.
        client_id: &'a [u8],
        /// The session, opaque here.
        session: &'a [u8],
    },
    /// Forget the session, if there is one.
    DeleteSession {
        /// The session's key.
        client_id: &'a [u8],
    },
    /// Store this subscription, in place of any earlier one of that path.
    PutSubscription {
        /// Whose it is.
        client_id: &'a [u8],
        /// What it is of.
        path: &'a [u8],
        /// The subscription, opaque here.
        subscribe: &'a [u8],
    },
    /// Forget the subscription, if there is one.
    DeleteSubscription {
        /// Whose it is.
        client_id: &'a [u8],
        /// What it is of.
        path: &'a [u8],
    },
    /// Store how far a consumer group has come in one shard.
    SaveOffset {
        /// Whose group it is.
        tenant: &'a [u8],
        /// The consumer group.
        group: &'a [u8],
        /// Where it stands.
        record: OffsetRecord<'a>,
    },
    /// Store this value, in place of any earlier one.
    PutValue {
        /// Its key.
        key: &'a [u8],
        /// The value, opaque here.
        value: &'a [u8],
    },
    /// Forget the value, if there is one.
    DeleteValue {
        /// Its key.
        key: &'a [u8],
    },
}

/// How far a consumer group has come in one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OffsetRecord<'a> {
    /// The shard.
    pub shard_name: &'a [u8],
    /// The topic, where the shard's name does not say it.
    pub topic: &'a [u8],
    /// The topic's partition.
    pub partition: u32,
    /// How far.
    pub offset: u64,
    /// The whole command takes effect only if this is the offset before it.
    pub expected: Option<u64>,
}

/// Calls `visit` for each change of `message`, in its order.
pub(super) fn visit<'a>(
    kind: Kind,
    message: &'a [u8],
    mut visit: impl FnMut(Change<'a>),
) -> Result<(), CommandError> {
    if kind == Kind::DeleteSession {
        // The single form, which logs from before the batch form hold.
        let [client_id] = last_of(message, [2])?;
        if !client_id.is_empty() {
            visit(Change::DeleteSession { client_id });
        }
    }
    each(message, kind.batched_field(), |entry| {
        match kind {
            Kind::CreateSession => {
                let [client_id, session] = last_of(entry, [1, 2])?;
                visit(Change::PutSession { client_id, session });
            }
            Kind::DeleteSession => {
                let [client_id] = last_of(entry, [2])?;
                visit(Change::DeleteSession { client_id });
            }
            Kind::SetSubscribe => {
                let [client_id, path, subscribe] = last_of(entry, [1, 2, 3])?;
                visit(Change::PutSubscription {
                    client_id,
                    path,
                    subscribe,
                });
            }
            Kind::DeleteSubscribe => {
                let [client_id, path] = last_of(entry, [1, 2])?;
                visit(Change::DeleteSubscription { client_id, path });
            }
            Kind::SaveOffsetData => offsets(entry, &mut visit)?,
            Kind::Set => {
                let [key, value] = last_of(entry, [1, 2])?;
                visit(Change::PutValue { key, value });
            }
            Kind::Delete => {
                let [key] = last_of(entry, [1])?;
                visit(Change::DeleteValue { key });
            }
        }
        Ok(())
    })
}

/// The offsets of one consumer group, whose name may stand behind them.
fn offsets<'a>(entry: &'a [u8], visit: &mut impl FnMut(Change<'a>)) -> Result<(), CommandError> {
    let [group, tenant] = last_of(entry, [1, 3])?;
    each(entry, 2, |encoded| {
        let mut record = OffsetRecord::default();
        let mut rest = encoded;
        while let Some((number, value)) = next(&mut rest)? {
            match number {
                2 => record.shard_name = value.bytes()?,
                3 => record.offset = value.varint()?,
                4 => record.topic = value.bytes()?,
                // Cut to 32 bits, as every decoder of a uint32 does.
                5 => record.partition = value.varint()? as u32,
                6 => record.expected = Some(value.varint()?),
                _ => {}
            }
        }
        visit(Change::SaveOffset {
            tenant,
            group,
            record,
        });
        Ok(())
    })
}
