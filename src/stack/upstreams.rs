//! Where a policy's batches go, and all else: the groups here, or a service
//! elsewhere.

use std::{sync::Arc, time::Duration};

use tonic::service::Routes;
use tower::util::BoxCloneSyncService;

use super::{Batches, StackError, assembly::enforced};
use crate::{
    accept::GroupKey,
    forward::Forward,
    meta::MetaService,
    policy::{Method, Policy, Upstream},
    proto::mqtt::mqtt_service_server::MqttServiceServer,
    raft::{Groups, command::Kind},
    upstream::{Embedded, Remote, RemoteClient, Target},
};

/// The write that the embedded group takes in batches.
pub(super) const CREATE_SESSION: &str = "/meta.service.mqtt.MqttService/CreateSession";
/// The fields of its entries that decide their group: `client_id`. They are the
/// node's, not the policy's: whoever reads or deletes must find the same group.
const CREATE_SESSION_KEY: [u32; 1] = [1];

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
    kept: Option<&RemoteClient>,
) -> Result<(Lines, Forward), StackError> {
    let methods = enforced(policy);
    match (groups, &policy.upstream) {
        (Some(groups), _) => embedded(groups, &methods, policy.batch_timeout),
        (None, Upstream::Remote { endpoints, tls }) => {
            let client = kept.filter(|client| client.serves(endpoints, tls));
            let client = match client {
                Some(client) => client.clone(),
                None => RemoteClient::new(endpoints.clone(), tls.clone())?,
            };
            Ok(remote(client, &methods, policy.batch_timeout))
        }
        (None, Upstream::Embedded { .. }) => Err(StackError::NoGroup),
    }
}

/// The node's own service takes what does not batch.
pub(super) fn embedded(
    groups: &Groups,
    methods: &[&Method],
    timeout: Duration,
) -> Result<(Lines, Forward), StackError> {
    let (mut targets, mut keys) = (Vec::new(), Vec::new());
    for method in methods {
        let (kind, fields) = match &*method.path {
            CREATE_SESSION => (Kind::CreateSession, CREATE_SESSION_KEY),
            path => {
                return Err(StackError::NotEmbedded {
                    path: path.to_owned(),
                });
            }
        };
        targets.push((kind, target(method)));
        keys.push(GroupKey {
            plan: Arc::clone(&method.plan),
            fields: fields.to_vec(),
        });
    }
    let upstream = Embedded::new(groups.clone(), targets, timeout);
    let services = groups.all().iter();
    let services = services.map(|_| BoxCloneSyncService::new(upstream.clone()));
    let lines = Lines {
        services: services.collect(),
        keys,
    };
    let service = MqttServiceServer::new(MetaService::new(groups.clone()));
    Ok((
        lines,
        Forward::Local(Box::new(Routes::new(service).prepare())),
    ))
}

fn remote(client: RemoteClient, methods: &[&Method], timeout: Duration) -> (Lines, Forward) {
    let targets = methods.iter().map(|method| target(method)).collect();
    let upstream = Remote::new(client.clone(), targets, timeout);
    let lines = Lines::lone(BoxCloneSyncService::new(upstream));
    (lines, Forward::Remote(client))
}

fn target(method: &Method) -> Target {
    Target {
        path: method.target.clone(),
        plan: Arc::clone(&method.plan),
    }
}
