//! Method path → where the call goes. PURE.

use std::collections::HashMap;

/// Where a call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Into the windows of the policy's method with this index.
    Batch(usize),
    /// To the upstream as it is, watched as the observed method with this index.
    Observe(usize),
    /// To the upstream as it is.
    Forward,
}

/// The paths that batch or are watched; every other one is forwarded.
#[derive(Clone, Debug, Default)]
pub struct Router {
    routes: HashMap<Box<str>, Route>,
}

impl Router {
    /// A router for these paths (`/package.Service/Method`), each with the
    /// index of its method.
    pub fn new<'a>(batched: impl IntoIterator<Item = (&'a str, usize)>) -> Self {
        let batched = batched.into_iter();
        let batched = batched.map(|(path, method)| (path.into(), Route::Batch(method)));
        Self {
            routes: batched.collect(),
        }
    }

    /// The same, and these paths are watched on their way.
    #[must_use]
    pub fn observing<'a>(mut self, observed: impl IntoIterator<Item = &'a str>) -> Self {
        let observed = observed.into_iter().enumerate();
        let observed = observed.map(|(method, path)| (path.into(), Route::Observe(method)));
        self.routes.extend(observed);
        self
    }

    /// The route of a path.
    #[must_use]
    pub fn route(&self, path: &str) -> Route {
        self.routes.get(path).copied().unwrap_or(Route::Forward)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_methods_of_the_policy_batch() {
        let router = Router::new([("/s.S/Create", 3)]).observing(["/s.S/Look"]);
        assert_eq!(router.route("/s.S/Look"), Route::Observe(0));
        assert_eq!(router.route("/s.S/Create"), Route::Batch(3));
        assert_eq!(router.route("/s.S/create"), Route::Forward);
        assert_eq!(router.route("/s.S/Create/"), Route::Forward);
    }
}
