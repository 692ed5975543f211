//! Who may be on the other end of a connection.
//!
//! An authorizer is asked in the handshake, after the peer's certificate has been verified. It
//! decides about identity only; what the peer may then do is for the application.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use spiffe::{SpiffeId, TrustDomain};

/// Decides by its SPIFFE ID whether an authenticated peer may connect. Cheap to clone.
///
/// A peer's trust domain must be our own, or one that the authorizer **names**: by an ID in it
/// ([`id`](Self::id), [`one_of`](Self::one_of)), by [`member_of`](Self::member_of), or by
/// [`federating_with`](Self::federating_with). A bundle for a foreign domain is thus necessary
/// to let its members in, but never enough.
#[derive(Clone)]
pub struct Authorizer {
    rule: Rule,
    federated: BTreeSet<TrustDomain>,
}

type Matcher = Arc<dyn Fn(&SpiffeId) -> bool + Send + Sync>;

#[derive(Clone)]
enum Rule {
    Any,
    OneOf(BTreeSet<SpiffeId>),
    MemberOf(TrustDomain),
    Matcher(Matcher),
}

impl Authorizer {
    /// Any authenticated member of our own trust domain.
    #[must_use]
    pub fn any() -> Self {
        Self::new(Rule::Any, BTreeSet::new())
    }

    /// Exactly this ID.
    #[must_use]
    pub fn id(id: SpiffeId) -> Self {
        Self::one_of([id])
    }

    /// Any of these IDs; none of them means nobody.
    #[must_use]
    pub fn one_of(ids: impl IntoIterator<Item = SpiffeId>) -> Self {
        let ids: BTreeSet<_> = ids.into_iter().collect();
        let domains = ids.iter().map(|id| id.trust_domain().clone()).collect();
        Self::new(Rule::OneOf(ids), domains)
    }

    /// Any member of this trust domain, and of no other.
    #[must_use]
    pub fn member_of(trust_domain: TrustDomain) -> Self {
        let domains = BTreeSet::from([trust_domain.clone()]);
        Self::new(Rule::MemberOf(trust_domain), domains)
    }

    /// Whoever the function says yes to. It runs inside the handshake, so it must not block.
    #[must_use]
    pub fn matcher(accepts: impl Fn(&SpiffeId) -> bool + Send + Sync + 'static) -> Self {
        Self::new(Rule::Matcher(Arc::new(accepts)), BTreeSet::new())
    }

    /// Opens [`any`](Self::any) or a [`matcher`](Self::matcher) to these foreign trust domains.
    #[must_use]
    pub fn federating_with(mut self, domains: impl IntoIterator<Item = TrustDomain>) -> Self {
        self.federated.extend(domains);
        self
    }

    fn new(rule: Rule, federated: BTreeSet<TrustDomain>) -> Self {
        Self { rule, federated }
    }

    /// Whether certificates of `peer` are considered at all by a member of `own`.
    pub(crate) fn considers(&self, own: &TrustDomain, peer: &TrustDomain) -> bool {
        own == peer || self.federated.contains(peer)
    }

    /// Whether this ID, of a trust domain that is considered, may connect.
    pub(crate) fn accepts(&self, peer: &SpiffeId) -> bool {
        match &self.rule {
            Rule::Any => true,
            Rule::OneOf(ids) => ids.contains(peer),
            Rule::MemberOf(trust_domain) => peer.is_member_of(trust_domain),
            Rule::Matcher(accepts) => accepts(peer),
        }
    }
}

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = match &self.rule {
            Rule::Any => "any".to_owned(),
            Rule::OneOf(ids) => {
                let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
                format!("one of [{}]", ids.join(", "))
            }
            Rule::MemberOf(trust_domain) => format!("member of {trust_domain}"),
            Rule::Matcher(_) => "matcher".to_owned(),
        };
        write!(f, "Authorizer({rule})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> SpiffeId {
        text.parse().unwrap()
    }

    fn domain(name: &str) -> TrustDomain {
        TrustDomain::new(name).unwrap()
    }

    #[test]
    fn an_exact_id_accepts_itself_and_nobody_else() {
        let authorizer = Authorizer::id(id("spiffe://a.example/web"));
        assert!(authorizer.accepts(&id("spiffe://a.example/web")));
        assert!(!authorizer.accepts(&id("spiffe://a.example/web/2")));
        assert!(!authorizer.accepts(&id("spiffe://a.example/Web")));
        assert!(!authorizer.accepts(&id("spiffe://b.example/web")));
    }

    #[test]
    fn one_of_no_ids_accepts_nobody() {
        assert!(!Authorizer::one_of([]).accepts(&id("spiffe://a.example/web")));
    }

    #[test]
    fn membership_is_of_the_whole_trust_domain_name() {
        let authorizer = Authorizer::member_of(domain("a.example"));
        assert!(authorizer.accepts(&id("spiffe://a.example/web")));
        assert!(!authorizer.accepts(&id("spiffe://x.a.example/web")));
    }

    #[test]
    fn a_foreign_trust_domain_is_considered_only_when_named() {
        let (own, foreign) = (domain("a.example"), domain("b.example"));
        assert!(Authorizer::any().considers(&own, &own));
        assert!(!Authorizer::any().considers(&own, &foreign));
        assert!(!Authorizer::matcher(|_| true).considers(&own, &foreign));
        assert!(Authorizer::member_of(foreign.clone()).considers(&own, &foreign));
        assert!(Authorizer::id(id("spiffe://b.example/web")).considers(&own, &foreign));
        assert!(
            Authorizer::any()
                .federating_with([foreign.clone()])
                .considers(&own, &foreign)
        );
    }
}
