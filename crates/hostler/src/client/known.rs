//! What a client command knows before it asks: server, token, CA.
//!
//! Each comes from a flag or variable, else from the file that `hostler login` wrote,
//! `~/.config/hostler/config.toml` (mode 0600).

use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::Connect;
use crate::failure::{Doing, Failure};
use crate::files;

/// Everything that is needed to talk to a control plane.
pub(crate) struct Known {
    pub(crate) server: String,
    pub(crate) token: SecretString,
    pub(crate) ca: Option<PathBuf>,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Saved {
    server: Option<String>,
    token: Option<String>,
    ca: Option<PathBuf>,
}

/// Where the login is saved (XDG base directory specification).
pub(crate) fn config_path() -> Result<PathBuf, Failure> {
    let base = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".config")))
        .ok_or_else(|| Failure::new("there is no HOME to find the saved login in"))?;
    Ok(base.join("hostler/config.toml"))
}

/// Where a control plane is, and what is saved of it.
pub(crate) struct Place {
    pub(crate) server: String,
    pub(crate) ca: Option<PathBuf>,
    /// The token that was saved for this very server.
    pub(crate) saved_token: Option<SecretString>,
}

impl Place {
    /// Looks at flags and variables first, at the saved login second.
    pub(crate) fn find(connect: &Connect) -> Result<Self, Failure> {
        let saved = if connect.server.is_some() && connect.ca.is_some() && env_token().is_some() {
            // Everything is given: the file is not asked, whatever it holds.
            Saved::default()
        } else {
            Saved::load()?
        };
        // A saved token or CA belongs to the saved server; another server must not see it.
        let elsewhere = connect.server.is_some() && connect.server != saved.server;
        let saved = if elsewhere { Saved::default() } else { saved };
        let server = connect.server.clone().or(saved.server).ok_or_else(|| {
            Failure::new("which control plane? give --server URL, set HOSTLER_SERVER, or log in")
        })?;
        Ok(Self {
            server,
            ca: connect.ca.clone().or(saved.ca),
            saved_token: saved.token.map(Into::into),
        })
    }
}

fn env_token() -> Option<SecretString> {
    let token = std::env::var("HOSTLER_TOKEN").ok();
    token.filter(|token| !token.is_empty()).map(Into::into)
}

/// Forgets the saved token, and keeps where the control plane is.
pub(crate) fn forget_token(path: &Path) -> Result<(), Failure> {
    let saved = Saved::load()?;
    Saved {
        token: None,
        ..saved
    }
    .save(path)
}

impl Known {
    /// Looks at flags and variables first, at the saved login second.
    pub(crate) fn find(connect: &Connect) -> Result<Self, Failure> {
        let place = Place::find(connect)?;
        let token = env_token().or(place.saved_token).ok_or_else(|| {
            Failure::new(
                "there is no token; log in with `hostler login --user NAME`, or set HOSTLER_TOKEN",
            )
        })?;
        Ok(Self {
            server: place.server,
            token,
            ca: place.ca,
        })
    }

    /// Saves it for the next commands; the old file stays whole until the new one is.
    pub(crate) fn save(&self, path: &Path) -> Result<(), Failure> {
        Saved {
            server: Some(self.server.clone()),
            token: Some(self.token.expose_secret().to_owned()),
            ca: self.ca.clone(),
        }
        .save(path)
    }
}

impl Saved {
    fn save(&self, path: &Path) -> Result<(), Failure> {
        let text = toml::to_string(self).doing(|| "cannot write the login")?;
        let cannot = || format!("cannot write {}", path.display());
        let directory = path.parent().ok_or_else(|| Failure::new(cannot()))?;
        std::fs::create_dir_all(directory).doing(cannot)?;
        write_private(path, text.as_bytes()).doing(cannot)
    }
}

/// Writes a file that only its owner may read, whole or not at all.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    files::replace(path, content, 0o600)
}

impl Saved {
    fn load() -> Result<Self, Failure> {
        let path = config_path()?;
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                toml::from_str(&text).doing(|| format!("the login {} is wrong", path.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).doing(|| format!("cannot read the login {}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_saved_login_is_for_its_owner_only() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("hostler/config.toml");
        let token = SecretString::from("hst_secret");
        let known = Known {
            server: "https://x:1".into(),
            token,
            ca: None,
        };
        known.save(&path).expect("saved");
        let mode = std::fs::metadata(&path)
            .expect("it exists")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let saved: Saved =
            toml::from_str(&std::fs::read_to_string(&path).expect("read")).expect("toml");
        assert_eq!(saved.token.as_deref(), Some("hst_secret"));
    }
}
