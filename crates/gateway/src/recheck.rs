//! A stream may last for days, and what it began with may be revoked on its first. So whose the
//! credentials are is asked again every few seconds, as it is for each request, and a stream whose
//! caller may not have it any more ends with an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::stream::{self, Stream, StreamExt};
use hostler_operations::{Access, CallError};
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::credentials::{AuthError, Credentials, IdentityProvider};

/// How often it is asked.
pub(crate) const RECHECK: Duration = Duration::from_secs(3);

/// Who has a stream, and what they need for it.
pub(crate) struct Holder {
    pub(crate) provider: Arc<dyn IdentityProvider>,
    pub(crate) credentials: Credentials,
    pub(crate) access: Access,
}

impl Holder {
    /// Whether they may have it no more. When that cannot be found out now, they may.
    async fn is_out(&self) -> bool {
        match self.provider.resolve(&self.credentials).await {
            Ok(identity) => self.access.check(identity.as_ref()).is_err(),
            Err(AuthError::Invalid(_)) => true,
            Err(AuthError::TooOften(_)) => false,
            Err(AuthError::Unavailable(cause)) => {
                tracing::warn!(cause, "the credentials of a stream cannot be checked");
                false
            }
        }
    }
}

/// The outputs, for as long as their holder may have them.
pub(crate) fn while_permitted(
    outputs: impl Stream<Item = Result<Value, CallError>> + Send + 'static,
    holder: Holder,
    every: Duration,
) -> impl Stream<Item = Result<Value, CallError>> + Send + 'static {
    let ended = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&ended);
    let is_out = async move {
        if holder.access == Access::Open {
            return std::future::pending().await;
        }
        let mut looks = interval_at(Instant::now() + every, every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if holder.is_out().await {
                ends.store(true, Ordering::Relaxed);
                return;
            }
        }
    };
    let why = stream::once(async move {
        let message = "your credentials do not permit this any more; log in again";
        ended
            .load(Ordering::Relaxed)
            .then(|| Err(CallError::forbidden(message)))
    });
    outputs
        .take_until(Box::pin(is_out))
        .chain(why.filter_map(std::future::ready))
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;
    use hostler_operations::{Grants, Identity, Scope};

    use super::*;

    const READ: Scope = Scope::new("books:read");

    type Resolved = Result<Option<Identity>, AuthError>;

    /// Answers so until it is asked for the third time, and then otherwise.
    struct Porter {
        asked: std::sync::atomic::AtomicU32,
        then: fn() -> Resolved,
    }

    impl IdentityProvider for Porter {
        fn resolve<'a>(
            &'a self,
            _: &'a Credentials,
        ) -> BoxFuture<'a, Result<Option<Identity>, AuthError>> {
            let asked = self.asked.fetch_add(1, Ordering::Relaxed);
            Box::pin(std::future::ready(match asked {
                0 | 1 => reader(),
                _ => (self.then)(),
            }))
        }
    }

    fn reader() -> Resolved {
        Ok(Some(Identity::new("ada", Grants::from_iter([READ]))))
    }

    /// How many outputs a stream has, one every few milliseconds, and how often its holder is asked
    /// after meanwhile.
    const OUTPUTS: u32 = 200;
    const PAUSE: Duration = Duration::from_millis(5);
    const OFTEN: Duration = Duration::from_millis(20);

    /// What such a stream tells.
    async fn told(access: Access, then: fn() -> Resolved) -> Vec<String> {
        let asked = Default::default();
        let holder = Holder {
            provider: Arc::new(Porter { asked, then }),
            credentials: Credentials::default(),
            access,
        };
        let outputs = stream::unfold(0, |n: u32| async move {
            tokio::time::sleep(PAUSE).await;
            (n < OUTPUTS).then(|| (Ok(n.into()), n + 1))
        });
        let all = while_permitted(outputs, holder, OFTEN).map(|output| match output {
            Ok(output) => output.to_string(),
            Err(error) => error.code().as_str().to_owned(),
        });
        all.collect().await
    }

    #[tokio::test]
    async fn a_stream_ends_with_an_error_once_its_holder_may_not_have_it() {
        let access = || Access::AllOf(vec![READ]);
        let gone: [fn() -> Resolved; 3] = [
            || Err(AuthError::invalid("revoked")),
            || Ok(None),
            || Ok(Some(Identity::new("ada", Grants::from_iter([])))),
        ];
        for then in gone {
            let told = told(access(), then).await;
            assert_eq!(told.last().map(String::as_str), Some("FORBIDDEN"));
            assert!((3..OUTPUTS as usize).contains(&told.len()), "{told:?}");
        }
    }

    #[tokio::test]
    async fn it_goes_on_while_they_may_or_while_nobody_can_say() {
        let access = || Access::AllOf(vec![READ]);
        assert_eq!(told(access(), reader).await.len(), OUTPUTS as usize);
        let asleep = || Err(AuthError::Unavailable("asleep".to_owned()));
        assert_eq!(told(access(), asleep).await.len(), OUTPUTS as usize);
        let gone = || Err(AuthError::invalid("revoked"));
        assert_eq!(told(Access::Open, gone).await.len(), OUTPUTS as usize);
    }
}
