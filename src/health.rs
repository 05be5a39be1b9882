//! `grpc.health.v1`, ferry's own: whether a call made now would be served.
//!
//! In front of a remote upstream health is the upstream's to tell unless the
//! policy says otherwise, as with other proxies: who asks through one means
//! the service behind it. `health: own` is for those who ask for the sidecar,
//! a kubelet above all. A group within this process has nobody else to ask.

use std::{collections::HashSet, pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use tokio::time::{MissedTickBehavior, interval};
use tonic::{Request, Response, Status, service::Routes};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};

/// What the paths of its calls begin with.
pub const PREFIX: &str = "/grpc.health.v1.Health/";

/// How often those who watch are told of a change.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How things stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Calls are served.
    Serving,
    /// They would not be: no upstream, or no leader.
    NotServing,
    /// None is taken any more.
    Draining,
}

impl Standing {
    const fn status(self) -> ServingStatus {
        match self {
            Self::Serving => ServingStatus::Serving,
            Self::NotServing | Self::Draining => ServingStatus::NotServing,
        }
    }
}

/// Tells how things stand now.
pub type Readiness = Arc<dyn Fn() -> Standing + Send + Sync>;

/// Answers for the process, whose service is called "", and for `services`.
pub fn routes(readiness: Readiness, services: HashSet<String>) -> Routes {
    let own = Own {
        readiness,
        services: Arc::new(services),
    };
    Routes::new(HealthServer::new(own)).prepare()
}

#[derive(Clone)]
struct Own {
    readiness: Readiness,
    services: Arc<HashSet<String>>,
}

impl Own {
    fn is_known(&self, service: &str) -> bool {
        service.is_empty() || self.services.contains(service)
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

#[tonic::async_trait]
impl Health for Own {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = &request.get_ref().service;
        if !self.is_known(service) {
            let what =
                format!("service {service}: ferry batches none of its methods; ask for \"\"");
            return Err(Status::not_found(what));
        }
        Ok(Response::new(response((self.readiness)().status())))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let known = self.is_known(&request.get_ref().service);
        let readiness = Arc::clone(&self.readiness);
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The last that was told; nothing once the drain was: a stream that
        // went on would hold the drain up.
        let told: Option<Option<ServingStatus>> = Some(None);
        let changes = stream::unfold((told, looks), move |(told, mut looks)| {
            let readiness = Arc::clone(&readiness);
            async move {
                let told = told?;
                loop {
                    looks.tick().await;
                    let standing = readiness();
                    let status = match known {
                        true => standing.status(),
                        false => ServingStatus::ServiceUnknown,
                    };
                    let draining = standing == Standing::Draining;
                    if draining || told != Some(status) {
                        let next = (!draining).then_some(Some(status));
                        return Some((Ok(response(status)), (next, looks)));
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
