//! An issuer that is away, refuses, errs, or knows foreign trust domains.

use hostler_authority::workload_api::{Issuer, IssuerError};
use hostler_authority::{Authority, Bundles, Lifetimes};
use hostler_identity::{Source, SpiffeId, TrustDomain, Unavailable};
use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use spiffe::WorkloadApiError;
use tokio::sync::watch;

use super::{Running, soon, web};
use crate::support::{domain, id, new};

/// How the issuer is at the moment.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Fine,
    Away,
    Refusing,
    /// Signs, but for somebody else.
    Confused,
}

/// An authority behind a moody door, with the bundles that it is given.
struct Moody {
    authority: Authority,
    mood: watch::Receiver<Mood>,
    bundles: watch::Receiver<Bundles>,
}

impl Moody {
    fn new(authority: &Authority, mood: Mood) -> (Self, watch::Sender<Mood>) {
        let (sender, receiver) = watch::channel(mood);
        let moody = Self {
            authority: authority.clone(),
            mood: receiver,
            bundles: authority.watch_bundles(),
        };
        (moody, sender)
    }

    fn answer(&self) -> Result<(), IssuerError> {
        match *self.mood.borrow() {
            Mood::Away => Err(IssuerError::Unavailable("out for lunch".to_owned())),
            Mood::Refusing => Err(IssuerError::Refused("this host was dismissed".to_owned())),
            Mood::Fine | Mood::Confused => Ok(()),
        }
    }
}

impl Issuer for Moody {
    async fn sign(&self, id: SpiffeId, csr_pem: String) -> Result<String, IssuerError> {
        self.answer()?;
        let confused = *self.mood.borrow() == Mood::Confused;
        let id = if confused { self::id("/admin") } else { id };
        Issuer::sign(&self.authority, id, csr_pem).await
    }

    async fn mint(&self, id: SpiffeId, audience: Vec<String>) -> Result<SecretString, IssuerError> {
        self.answer()?;
        self.authority.mint(id, audience).await
    }

    fn bundles(&self) -> watch::Receiver<Bundles> {
        self.bundles.clone()
    }
}

#[tokio::test]
async fn an_issuer_that_is_away_is_asked_again_and_the_workload_waits() {
    let (authority, _dir) = new();
    let (moody, mood) = Moody::new(&authority, Mood::Away);
    let running = Running::with_issuer(moody, web());
    let client = running.client().await;
    let refused = soon(client.fetch_x509_svid())
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("out for lunch"), "{refused}");
    assert!(soon(client.fetch_jwt_svid(["x"], None)).await.is_err());
    mood.send_replace(Mood::Fine);
    // What the crate's own source does: it comes back until there is an answer.
    let source = spiffe::X509Source::builder()
        .endpoint(&running.endpoint)
        .build();
    let source = soon(source).await.unwrap();
    assert_eq!(source.svid().unwrap().spiffe_id(), &id("/web"));
    soon(source.shutdown()).await;
}

#[tokio::test]
async fn an_issuer_that_goes_away_later_takes_nothing_back_until_it_expires() {
    let dir = tempfile::tempdir().unwrap();
    let lifetimes = Lifetimes {
        svid: SignedDuration::from_secs(4),
        ..Default::default()
    };
    let authority = Authority::open_with(dir.path(), domain(), lifetimes, Timestamp::now());
    let (moody, mood) = Moody::new(&authority.unwrap(), Mood::Fine);
    let running = Running::with_issuer(moody, web());
    let mut source = soon(Source::workload_api(&running.endpoint)).await.unwrap();
    mood.send_replace(Mood::Away);
    let end = source.svid_expiry().unwrap();
    let last = source.svid().unwrap();
    let expired = async {
        while let Ok(svid) = source.svid() {
            assert_eq!(svid.chain(), last.chain(), "the last one, until its end");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    soon(expired).await;
    assert!(Timestamp::now() > end);
    assert!(matches!(
        source.svid(),
        Err(Unavailable::Expired(_) | Unavailable::Withdrawn)
    ));
    mood.send_replace(Mood::Fine);
    let back = async {
        while source.svid().is_err() {
            source.changed().await.unwrap();
        }
    };
    soon(back).await;
}

#[tokio::test]
async fn an_issuer_that_refuses_is_quoted() {
    let (authority, _dir) = new();
    let (moody, _mood) = Moody::new(&authority, Mood::Refusing);
    let running = Running::with_issuer(moody, web());
    let client = running.client().await;
    for refused in [
        soon(client.fetch_x509_svid()).await.map(drop),
        soon(client.fetch_jwt_svid(["x"], None)).await.map(drop),
    ] {
        let Err(WorkloadApiError::PermissionDenied(reason)) = refused else {
            panic!("{refused:?}");
        };
        assert!(reason.contains("this host was dismissed"), "{reason}");
    }
}

#[tokio::test]
async fn an_identity_of_somebody_else_is_not_passed_on() {
    let (authority, _dir) = new();
    let (moody, _mood) = Moody::new(&authority, Mood::Confused);
    let running = Running::with_issuer(moody, web());
    let client = running.client().await;
    let refused = soon(client.fetch_x509_svid())
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("spiffe://a.example/admin"), "{refused}");
}

#[tokio::test]
async fn foreign_bundles_come_along_under_their_own_names() {
    let (authority, _dir) = new();
    let dir = tempfile::tempdir().unwrap();
    let foreign = TrustDomain::new("b.example").unwrap();
    let theirs = Authority::open(dir.path(), foreign.clone()).unwrap();
    let (mut moody, _mood) = Moody::new(&authority, Mood::Fine);
    let mut bundles = authority.watch_bundles().borrow().clone();
    let roots = theirs.bundles().get(&foreign).unwrap().to_vec();
    bundles.x509.insert(foreign.clone(), roots.clone()).unwrap();
    let keys = theirs.jwt_bundles().get(&foreign).unwrap().clone();
    bundles.jwt.insert(foreign.clone(), keys);
    let (_bundles, receiver) = watch::channel(bundles);
    moody.bundles = receiver;
    let running = Running::with_issuer(moody, web());
    let client = running.client().await;

    let context = soon(client.fetch_x509_context()).await.unwrap();
    let bundle = context.bundle_set().get(&foreign).unwrap();
    assert_eq!(bundle.authorities().len(), 1);
    assert_eq!(bundle.authorities()[0].as_bytes(), &roots[0][..]);
    assert_eq!(
        context
            .bundle_set()
            .get(&domain())
            .unwrap()
            .authorities()
            .len(),
        1
    );
    let jwt = soon(client.fetch_jwt_bundles()).await.unwrap();
    assert_eq!(jwt.len(), 2);
}
