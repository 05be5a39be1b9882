//! Where a policy's batches go, and all else: the group here, or a service
//! elsewhere.

use std::{sync::Arc, time::Duration};

use tonic::service::Routes;
use tower::util::BoxCloneSyncService;

use super::{Batches, StackError, assembly::enforced};
use crate::{
    forward::Forward,
    meta::MetaService,
    policy::{Method, Policy, Upstream},
    proto::mqtt::mqtt_service_server::MqttServiceServer,
    raft::{Group, command::Kind},
    upstream::{Embedded, Remote, RemoteClient, Target},
};

/// The write that the embedded group takes in batches.
pub(super) const CREATE_SESSION: &str = "/meta.service.mqtt.MqttService/CreateSession";

/// What `policy` names; `group` is the embedded one.
pub(super) fn of(
    policy: &Policy,
    group: Option<&Group>,
    kept: Option<&RemoteClient>,
) -> Result<(Batches, Forward), StackError> {
    let methods = enforced(policy);
    match (group, &policy.upstream) {
        (Some(group), _) => embedded(group, &methods, policy.batch_timeout),
        (None, Upstream::Remote { endpoints }) => {
            let client = kept.filter(|client| client.endpoints() == &endpoints[..]);
            let client = client.cloned();
            let client = client.unwrap_or_else(|| RemoteClient::new(endpoints.clone()));
            Ok(remote(client, &methods, policy.batch_timeout))
        }
        (None, Upstream::Embedded { .. }) => Err(StackError::NoGroup),
    }
}

/// The group's own service takes what does not batch.
pub(super) fn embedded(
    group: &Group,
    methods: &[&Method],
    timeout: Duration,
) -> Result<(Batches, Forward), StackError> {
    let targets = methods.iter().map(|method| match &*method.path {
        CREATE_SESSION => Ok((Kind::CreateSession, target(method))),
        path => Err(StackError::NotEmbedded {
            path: path.to_owned(),
        }),
    });
    let upstream = Embedded::new(group.clone(), targets.collect::<Result<_, _>>()?, timeout);
    let service = MqttServiceServer::new(MetaService::new(group.clone()));
    Ok((
        BoxCloneSyncService::new(upstream),
        Forward::Local(Box::new(Routes::new(service).prepare())),
    ))
}

fn remote(client: RemoteClient, methods: &[&Method], timeout: Duration) -> (Batches, Forward) {
    let targets = methods.iter().map(|method| target(method)).collect();
    let upstream = Remote::new(client.clone(), targets, timeout);
    (BoxCloneSyncService::new(upstream), Forward::Remote(client))
}

fn target(method: &Method) -> Target {
    Target {
        path: method.path.clone(),
        plan: Arc::clone(&method.plan),
    }
}
