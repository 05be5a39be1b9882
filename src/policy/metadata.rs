//! What a call's metadata means for the batch that it may join.
//!
//! A batch has one set of metadata, so a key either is part of the identity
//! (equal in all), or says nothing that the upstream needs (ignored), or keeps
//! its call alone. The usual per-call keys are ignored from the start, else
//! ferry would batch nothing behind a mesh.

use super::{fault::Found, file::MetadataFile, section::At};

/// What to do with a metadata key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classify {
    /// Its value is part of the partition.
    Identity,
    /// It does not reach the upstream and separates nobody.
    Ignore,
    /// The call that has it is sent by itself.
    Alone,
}

/// What to do with metadata that no rule names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherMetadata {
    /// The call goes alone.
    Alone,
    /// It counts as identity.
    Identity,
}

/// Equal within a batch unless the policy says otherwise: what calls are
/// admitted by, and who the proxies of a mesh say that the caller is.
const IDENTITY: [&str; 4] = [
    "authorization",
    "l5d-client-id",
    "token",
    "x-forwarded-client-cert",
];
/// Stands in the lists for no key of metadata, but for the certificate of a
/// client of a TLS listener.
const CERTIFICATE: &str = "client_certificate";
/// Stands in the lists for whom a call is addressed to, which a batch keeps.
const AUTHORITY: &str = ":authority";
/// Ignored unless the policy makes it identity. `content-length` stands for
/// the frame that the call came in, which its entry leaves behind.
const IGNORED: [&str; 9] = [
    "baggage",
    "content-length",
    "content-type",
    "ferry-explain",
    "grpc-*",
    "te",
    "traceparent",
    "tracestate",
    "user-agent",
];

/// The checked `metadata` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataRules {
    identity: Vec<String>,
    ignore: Vec<String>,
    ignore_prefixes: Vec<String>,
    other: OtherMetadata,
    certificate: bool,
    authority: bool,
}

impl MetadataRules {
    /// Rules from lower-case names; one in `ignore` may end in `*`.
    #[must_use]
    pub fn new<S: AsRef<str>>(identity: &[S], ignore: &[S], other: OtherMetadata) -> Self {
        let built_in = IGNORED.iter().map(|name| (*name).to_owned());
        let ignored: Vec<_> = built_in.chain(owned(ignore)).collect();
        let prefixes = ignored
            .iter()
            .filter_map(|name| name.strip_suffix('*').map(str::to_owned));
        let whole = ignored.iter().filter(|name| !name.ends_with('*')).cloned();
        Self {
            identity: sorted(owned(identity)),
            ignore_prefixes: sorted(prefixes),
            ignore: sorted(whole),
            other,
            certificate: true,
            authority: false,
        }
    }

    /// What the key `name`, in lower case as HTTP/2 has it, means. What the
    /// policy names as identity is that, even where it would be ignored.
    #[must_use]
    pub fn classify(&self, name: &str) -> Classify {
        let among = |names: &[String]| {
            names
                .binary_search_by(|held| held.as_str().cmp(name))
                .is_ok()
        };
        if among(&self.identity) {
            Classify::Identity
        } else if among(&self.ignore)
            || self
                .ignore_prefixes
                .iter()
                .any(|p| name.starts_with(p.as_str()))
        {
            Classify::Ignore
        } else {
            match self.other {
                OtherMetadata::Alone => Classify::Alone,
                OtherMetadata::Identity => Classify::Identity,
            }
        }
    }

    /// Whether callers with different TLS certificates never share a batch.
    #[must_use]
    pub fn by_certificate(&self) -> bool {
        self.certificate
    }

    /// Whether calls that are addressed to different hosts never share a batch,
    /// and a batch says to which its calls were.
    #[must_use]
    pub fn by_authority(&self) -> bool {
        self.authority
    }

    /// The keys that must be equal within a batch, sorted.
    #[must_use]
    pub fn identity(&self) -> &[String] {
        &self.identity
    }

    /// The keys that are ignored, sorted; prefixes end in `*`.
    #[must_use]
    pub fn ignored(&self) -> Vec<String> {
        let prefixes = self
            .ignore_prefixes
            .iter()
            .map(|prefix| format!("{prefix}*"));
        // What is identity is not ignored, though it would be from the start.
        let whole = self
            .ignore
            .iter()
            .filter(|name| !self.identity.contains(name));
        let mut all: Vec<_> = whole.cloned().chain(prefixes).collect();
        all.sort_unstable();
        all
    }

    /// What happens to a call with any other key.
    #[must_use]
    pub fn other(&self) -> OtherMetadata {
        self.other
    }
}

fn owned<S: AsRef<str>>(names: &[S]) -> impl Iterator<Item = String> {
    names.iter().map(|name| name.as_ref().to_owned())
}

fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The rules in `file`, which name every key once. `passes_authority` says that
/// the upstream reads to whom a call is addressed.
pub(super) fn check(
    file: &MetadataFile,
    passes_authority: bool,
    found: &mut Found,
) -> MetadataRules {
    let names = |list: &[At<String>], key: &str, star: bool, found: &mut Found| -> Vec<String> {
        for (i, name) in list.iter().enumerate() {
            let plain = if star {
                name.value.strip_suffix('*').unwrap_or(&name.value)
            } else {
                &name.value
            };
            if plain != AUTHORITY && http::HeaderName::from_bytes(plain.as_bytes()).is_err() {
                let (value, what) = (
                    &name.value,
                    "must be a metadata key: letters, digits, - _ .",
                );
                found.add::<()>(name.at, format!("metadata.{key}[{i}]: \"{value}\": {what}"));
            }
        }
        list.iter()
            .map(|name| name.value.to_ascii_lowercase())
            .collect()
    };
    let mut identity = match &file.identity {
        Some(list) => names(list, "identity", false, found),
        None => IDENTITY.map(str::to_owned).to_vec(),
    };
    let ignore = names(&file.ignore, "ignore", true, found);
    for (name, written) in ignore.iter().zip(&file.ignore) {
        if identity.contains(name) {
            let what = "is identity too, which separates calls by it; keep it in one list";
            found.add::<()>(written.at, format!("metadata.ignore: {name}: {what}"));
        }
    }
    let other = file.other.as_ref();
    let other = other.map_or(OtherMetadata::Alone, |other| other.value);
    let by_authority = passes_authority && !ignore.iter().any(|name| name == AUTHORITY);
    identity.retain(|name| name != CERTIFICATE && name != AUTHORITY);
    let mut rules = MetadataRules::new(&identity, &ignore, other);
    // A certificate is a credential: it separates callers unless told not to.
    rules.certificate = !ignore.iter().any(|name| name == CERTIFICATE);
    rules.authority = by_authority;
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_behind_a_mesh_still_batch() {
        let rules = MetadataRules::new(&["authorization"], &["x-request-id"], OtherMetadata::Alone);
        for name in [
            "user-agent",
            "te",
            "content-type",
            "content-length",
            "grpc-timeout",
            "grpc-encoding",
            "grpc-accept-encoding",
            "grpc-trace-bin",
            "traceparent",
            "tracestate",
            "baggage",
            "x-request-id",
        ] {
            assert_eq!(rules.classify(name), Classify::Ignore, "{name}");
        }
    }

    #[test]
    fn a_call_with_metadata_that_no_rule_names_goes_alone() {
        let rules = MetadataRules::new(&["authorization"], &[], OtherMetadata::Alone);
        assert_eq!(rules.classify("authorization"), Classify::Identity);
        assert_eq!(rules.classify("x-tenant"), Classify::Alone);
        assert_eq!(rules.classify("grpcx"), Classify::Alone);
        let rules = MetadataRules::new::<&str>(&[], &[], OtherMetadata::Identity);
        assert_eq!(rules.classify("x-tenant"), Classify::Identity);
    }

    #[test]
    fn identity_outranks_what_is_ignored_from_the_start() {
        let rules = MetadataRules::new(&["user-agent", "grpc-tags-bin"], &[], OtherMetadata::Alone);
        assert_eq!(rules.classify("user-agent"), Classify::Identity);
        assert_eq!(rules.classify("grpc-tags-bin"), Classify::Identity);
        assert_eq!(rules.classify("grpc-timeout"), Classify::Ignore);
    }
}
