//! Method path → where the call goes. PURE.

use std::collections::HashMap;

/// Where a call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Into the windows of the policy's method with this index.
    Batch(usize),
    /// To the upstream as it is.
    Forward,
}

/// The paths that batch; every other one is forwarded.
#[derive(Clone, Debug, Default)]
pub struct Router {
    batched: HashMap<Box<str>, usize>,
}

impl Router {
    /// A router for these paths (`/package.Service/Method`), each with the
    /// index of its method.
    pub fn new<'a>(batched: impl IntoIterator<Item = (&'a str, usize)>) -> Self {
        let batched = batched.into_iter();
        Self {
            batched: batched
                .map(|(path, method)| (path.into(), method))
                .collect(),
        }
    }

    /// The route of a path.
    #[must_use]
    pub fn route(&self, path: &str) -> Route {
        match self.batched.get(path) {
            Some(method) => Route::Batch(*method),
            None => Route::Forward,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_methods_of_the_policy_batch() {
        let router = Router::new([("/s.S/Create", 3)]);
        assert_eq!(router.route("/s.S/Create"), Route::Batch(3));
        assert_eq!(router.route("/s.S/create"), Route::Forward);
        assert_eq!(router.route("/s.S/Create/"), Route::Forward);
    }
}
