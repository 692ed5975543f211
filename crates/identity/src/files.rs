//! An identity from files: what cert-manager, `spiffe-helper`, a secret volume or a person puts
//! on the disk.
//!
//! Three PEM files make a set: the certificate chain, its private key, and the roots of the
//! SVID's own trust domain. Whoever renews them replaces them one by one, so at times the set on
//! the disk does not fit together. Such a set is no news: the last good identity stays until it
//! expires, and the set is read again until it fits.
//!
//! Changes are found by looking once a second, not by inotify: a look costs three `stat`s, and it
//! sees what inotify does not, such as a symlink that is switched further up the path (which is
//! how secret volumes are renewed) and changes made by another machine on a network disk.

pub(crate) mod read;
mod stamp;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{info, warn};

use crate::bundle::TrustBundles;
use crate::source::{Source, SourceWriter};
use crate::svid::Svid;
pub use read::FilesError;
use stamp::Stamps;

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(1);

/// The PEM files that together are an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SvidFiles {
    /// The certificate chain, leaf first.
    pub chain: PathBuf,
    /// The leaf's private key (PKCS#8, SEC1 or PKCS#1). The group may be allowed to read it,
    /// nobody else.
    pub key: PathBuf,
    /// The roots of the trust domain that the leaf's SPIFFE ID names.
    pub bundle: PathBuf,
}

impl Source {
    /// The identity in these files, followed as they are replaced.
    ///
    /// The first set must be readable and fit together; later ones that do not are logged once
    /// and tried again, while the last good identity is used until it expires. A background task
    /// ends with the last clone of the source. Must be called within a tokio runtime.
    pub async fn files(files: SvidFiles) -> Result<Self, FilesError> {
        let ((svid, bundles), changes) = Changes::of(files, read::set).await?;
        let (source, writer) = Self::memory(svid, bundles);
        tokio::spawn(async move {
            let take = |(svid, bundles)| take(&writer, svid, bundles);
            tokio::select! {
                () = writer.unused() => {}
                never = changes.follow(take) => match never {},
            }
        });
        Ok(source)
    }
}

/// What a set of files is read as.
type Reading<T> = fn(&SvidFiles) -> Result<T, FilesError>;

/// A set of files that was read once, and is looked at again and again.
pub(crate) struct Changes<T> {
    files: Arc<SvidFiles>,
    read: Reading<T>,
    known: Option<Stamps>,
}

impl<T: Send + 'static> Changes<T> {
    /// Reads the set for the first time.
    pub(crate) async fn of(files: SvidFiles, read: Reading<T>) -> Result<(T, Self), FilesError> {
        let files = Arc::new(files);
        let (known, set) = load(&files, read).await;
        Ok((set?, Self { files, read, known }))
    }

    /// Hands on every good set that the files become.
    pub(crate) async fn follow(self, take: impl FnMut(T)) -> Infallible {
        let Self { files, read, known } = self;
        follow(files, read, known, take).await
    }
}

/// Reads the set, and says what the files looked like before.
async fn load<T: Send + 'static>(
    files: &Arc<SvidFiles>,
    read: Reading<T>,
) -> (Option<Stamps>, Result<T, FilesError>) {
    let files = Arc::clone(files);
    // In this order: what is replaced while we read has another stamp at the next look.
    blocking(move || (Stamps::of(&files, Timestamp::now()), read(&files))).await
}

async fn follow<T: Send + 'static>(
    files: Arc<SvidFiles>,
    read: Reading<T>,
    mut known: Option<Stamps>,
    mut take: impl FnMut(T),
) -> Infallible {
    let mut complaint = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let looked_at = Arc::clone(&files);
        let now = blocking(move || Stamps::of(&looked_at, Timestamp::now())).await;
        if known.is_some() && now == known {
            continue;
        }
        let (stamps, set) = load(&files, read).await;
        match set {
            Ok(set) => {
                (known, complaint) = (stamps, None);
                take(set);
            }
            Err(reason) => {
                known = None;
                let reason = Some(reason.to_string());
                if complaint != reason {
                    warn!(
                        reason,
                        "these files are no identity; the last good one is kept"
                    );
                    complaint = reason;
                }
            }
        }
    }
}

/// Hands a set on if it is another one: whoever waits for a change wants one.
fn take(writer: &SourceWriter, svid: Svid, bundles: TrustBundles) {
    match writer.svid() {
        Some(old) if old.chain() == svid.chain() => {
            if writer.bundles().as_ref() != Some(&bundles) {
                info!(id = %svid.id(), "trust bundle replaced");
                writer.replace_bundles(bundles);
            }
        }
        _ => {
            info!(id = %svid.id(), expires_at = %svid.not_after(), "identity replaced");
            writer.replace(svid, bundles);
        }
    }
}

/// Runs file work away from the threads that serve: a disk may take its time.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}
