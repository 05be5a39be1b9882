//! A sidecar's policy while it runs: put in force, watched, and handed to the
//! admin pages.

use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use super::{
    Sidecar, Stack, StackError,
    assembly::{Assembly, Batched, Seen},
};
use crate::{
    accept::{Door, Guards},
    policy::{self, Cause, Live, Mode, Policy, Source},
    telemetry::{Controls, MethodPlan, Metrics},
    transport::ServerTls,
};

/// What callers meet, and reloads swap.
pub(super) struct Face {
    pub(super) door: Arc<ArcSwap<Door<Batched>>>,
    pub(super) guards: Arc<ArcSwap<Guards>>,
    /// That of each listener, if it has any.
    pub(super) tls: Vec<Option<ServerTls>>,
}

impl Face {
    /// What makes the listeners go by the files that `policy` names for them.
    fn secured(&self, policy: &Policy) -> Result<Vec<impl FnOnce() + use<>>, StackError> {
        let both = self.tls.iter().zip(&policy.listen).enumerate();
        let both = both.filter_map(|(i, (tls, listen))| {
            let (tls, files) = (tls.as_ref()?, listen.tls.as_ref()?);
            let prepared = tls.prepare(files);
            Some(prepared.map_err(|error| StackError::ServerTls { i, error }))
        });
        both.collect()
    }
}

impl Sidecar {
    /// Reloads swap what is of `face`, and the files of `source` are watched.
    pub(super) fn new(
        policy: &Policy,
        source: Option<Source>,
        assembly: Arc<Assembly>,
        face: Face,
        metrics: &Metrics,
    ) -> Result<Self, StackError> {
        let builder = Arc::clone(&assembly);
        let install = move |policy: &Policy| {
            // The door last: by it the limit changes for those of before, too.
            let secured = face.secured(policy).map_err(|error| error.to_string())?;
            let next = builder.door(policy).map_err(|error| error.to_string())?;
            face.door.store(Arc::new(next));
            face.guards.store(Arc::new(policy.guards.clone()));
            secured.into_iter().for_each(|swap| swap());
            Ok(())
        };
        let live = Live::new(
            policy.clone(),
            source,
            Box::new(install),
            metrics.reloads()?,
        );
        let live = Arc::new(live);
        let watched = Arc::clone(&live);
        Ok(Self {
            assembly,
            live,
            watch: tokio::spawn(async move { watched.watch().await }),
        })
    }
}

impl Stack {
    /// What the admin pages may see and do.
    pub(super) fn controls(&self, sidecar: &Sidecar) -> Arc<dyn Controls> {
        Arc::new(LiveControls {
            live: Arc::clone(&sidecar.live),
            assembly: Arc::clone(&sidecar.assembly),
            drain_asked: Arc::clone(&self.drain_asked),
        })
    }
}

struct LiveControls {
    live: Arc<Live>,
    assembly: Arc<Assembly>,
    drain_asked: Arc<Notify>,
}

impl Controls for LiveControls {
    fn policy(&self) -> serde_json::Value {
        serde_json::json!({
            "policy": policy::describe(&self.live.policy()),
            "reloads": self.live.recent(),
        })
    }

    fn plans(&self) -> Vec<MethodPlan> {
        let policy = self.live.policy();
        let methods = policy.methods.iter().map(|method| {
            let Seen { alone, observed } = self.assembly.seen(&method.path);
            MethodPlan {
                method: method.path[1..].to_owned(),
                mode: method.mode.name(),
                plan: policy::plan(&policy, method),
                alone,
                observed,
            }
        });
        methods.collect()
    }

    fn switch(&self, selector: String, mode: String) -> BoxFuture<'static, Result<(), String>> {
        let live = Arc::clone(&self.live);
        Box::pin(async move {
            let Some(mode) = Mode::of_name(&mode) else {
                let names = Mode::ALL.map(|(name, _)| name);
                return Err(format!(
                    "mode \"{mode}\": must be one of {}",
                    names.join(", ")
                ));
            };
            let switch = tokio::spawn(async move { live.switch(&selector, mode).await });
            let switched = switch.await;
            switched.unwrap_or_else(|error| Err(format!("the switch failed: {error}")))
        })
    }

    fn is_token(&self, told: &[u8]) -> bool {
        let policy = self.live.policy();
        let token = policy.admin_token.as_ref();
        token.is_some_and(|token| token.is(told))
    }

    fn reload(&self) -> BoxFuture<'static, Result<(), Vec<String>>> {
        let live = Arc::clone(&self.live);
        // In a task of its own: whoever asked may hang up, and half of a
        // reload is no reload.
        let reload = tokio::spawn(async move { live.reload(Cause::Request).await });
        Box::pin(async move {
            match reload.await {
                Ok(reload) if reload.accepted => Ok(()),
                Ok(reload) => Err(reload.faults),
                Err(error) => Err(vec![format!("the reload failed: {error}")]),
            }
        })
    }

    fn drain(&self) {
        self.drain_asked.notify_one();
    }
}
