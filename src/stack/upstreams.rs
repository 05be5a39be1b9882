//! Where a policy's batches go, and all else: the groups here, or a service
//! elsewhere.

use std::{sync::Arc, time::Duration};

use tonic::{codec::CompressionEncoding, service::Routes};
use tower::util::BoxCloneSyncService;

use super::{Batches, StackError, assembly::in_mode};
use crate::{
    accept::GroupKey,
    forward::Forward,
    meta::MetaService,
    policy::{Method, Mode, Policy, Upstream},
    proto::{
        meta::meta_service_service_server::MetaServiceServiceServer,
        mqtt::mqtt_service_server::MqttServiceServer,
    },
    raft::{Groups, command::Kind},
    upstream::{Embedded, Led, Remote, RemoteClient, Target},
};

/// One service for each Raft group, and one if there are none.
pub(super) struct Lines {
    pub(super) services: Vec<Batches>,
    /// What decides a call's group, a method; not asked where there is one.
    pub(super) keys: Vec<GroupKey>,
}

impl Lines {
    pub(super) fn lone(service: Batches) -> Self {
        Self {
            services: vec![service],
            keys: Vec::new(),
        }
    }
}

/// What `policy` names; `groups` are the embedded ones.
pub(super) fn of(
    policy: &Policy,
    groups: Option<&Groups>,
    kept: Option<&(RemoteClient, Option<Led>)>,
) -> Result<(Lines, Forward), StackError> {
    let methods = in_mode(policy, Mode::Enforce);
    match (groups, &policy.upstream) {
        (Some(groups), _) => embedded(groups, &methods, policy.batch_timeout),
        (None, Upstream::Remote { endpoints, tls }) => {
            let led = match &policy.leader_hint {
                None => None,
                Some(hint) => {
                    let kept = kept.and_then(|kept| kept.1.as_ref());
                    let kept = kept.filter(|led| led.is_of(endpoints, tls, hint));
                    Some(match kept {
                        Some(led) => led.clone(),
                        None => Led::new(endpoints, tls, hint.clone())?,
                    })
                }
            };
            let client = kept.map(|kept| &kept.0);
            let client = match client.filter(|client| client.serves(endpoints, tls)) {
                Some(client) => client.clone(),
                None => RemoteClient::new(endpoints.clone(), tls.clone())?,
            };
            Ok(remote(client, led, &methods, policy.batch_timeout))
        }
        (None, Upstream::Embedded { .. }) => Err(StackError::NoGroup),
    }
}

/// Most bytes of a message that the node's own service takes, unless a method
/// may have more.
const LONE_MAX: usize = 4 << 20;

/// The node's own service takes what does not batch.
pub(super) fn embedded(
    groups: &Groups,
    methods: &[&Method],
    timeout: Duration,
) -> Result<(Lines, Forward), StackError> {
    let (mut targets, mut keys) = (Vec::new(), Vec::new());
    for method in methods {
        let kind = method.path.strip_prefix('/').and_then(Kind::of_selector);
        let kind = kind.ok_or_else(|| StackError::NotEmbedded {
            path: method.path.clone(),
        })?;
        targets.push((kind, target(method)));
        keys.push(GroupKey {
            plan: Arc::clone(&method.plan),
            fields: kind.group_key().to_vec(),
        });
    }
    let upstream = Embedded::new(groups.clone(), targets, timeout);
    let services = groups.all().iter();
    let services = services.map(|_| BoxCloneSyncService::new(upstream.clone()));
    let lines = Lines {
        services: services.collect(),
        keys,
    };
    let service = MetaService::new(groups.clone());
    // Whatever the door would read, though it does not batch.
    let bounds = methods.iter().map(|method| method.max_message_bytes);
    let bound = bounds.fold(LONE_MAX, usize::max);
    let mut mqtt = MqttServiceServer::new(service.clone()).max_decoding_message_size(bound);
    let mut meta = MetaServiceServiceServer::new(service).max_decoding_message_size(bound);
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Deflate] {
        mqtt = mqtt.accept_compressed(encoding);
        meta = meta.accept_compressed(encoding);
    }
    let routes = Routes::new(mqtt).add_service(meta);
    Ok((lines, Forward::Local(Box::new(routes.prepare()))))
}

fn remote(
    client: RemoteClient,
    led: Option<Led>,
    methods: &[&Method],
    timeout: Duration,
) -> (Lines, Forward) {
    let targets = methods.iter().map(|method| target(method)).collect();
    let mut upstream = Remote::new(client.clone(), targets, timeout);
    if let Some(led) = &led {
        upstream = upstream.led(led.clone());
    }
    let lines = Lines::lone(BoxCloneSyncService::new(upstream));
    (lines, Forward::Remote(client, led))
}

fn target(method: &Method) -> Target {
    let retry = method.on_error.retry.as_ref();
    Target {
        path: method.target.clone(),
        plan: Arc::clone(&method.plan),
        max_reply_bytes: method.max_reply_bytes,
        attempt_timeout: retry.and_then(|retry| retry.attempt_timeout),
    }
}
