//! Where a guest is spoken to, and how one gets through to it.
//!
//! QEMU offers a socket that leads straight to a serial port of the guest. Firecracker offers one
//! socket for all ports of the guest's vsock: whoever connects says which, and is hung up on while
//! nobody listens there (Firecracker's `docs/vsock.md`).

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use crate::dialogue::{self, Broken};

/// How long a vsock may take to say whether somebody listens. Firecracker gives up after two.
const ACKNOWLEDGE: Duration = Duration::from_secs(5);

/// How long to wait before asking again for a port that nobody listens on yet.
const RETRY: Duration = Duration::from_millis(20);

/// The longest answer to a `CONNECT`: `OK `, a number of 32 bits, a line break.
const MAX_ACKNOWLEDGEMENT: usize = 16;

/// Where a guest is spoken to. (A record of an earlier version has a bare path, which is a socket.)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum GuestEndpoint {
    /// A socket that leads to the guest at once.
    Socket(PathBuf),
    /// A socket that leads to any port of the guest's vsock.
    Vsock { path: PathBuf, port: u32 },
}

impl GuestEndpoint {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Socket(path) | Self::Vsock { path, .. } => path,
        }
    }

    /// Tries once to get through. [`Broken::Closed`] means that nobody listens, perhaps not yet.
    pub(crate) async fn open(&self) -> Result<UnixStream, Broken> {
        let mut stream = dialogue::connect(self.path())
            .await
            .map_err(|source| Broken::Socket {
                path: self.path().to_owned(),
                source,
            })?;
        if let Self::Vsock { path, port } = self {
            let acknowledged = timeout(ACKNOWLEDGE, ask_for_port(&mut stream, *port)).await;
            let path = || path.clone();
            match acknowledged {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return Err(Broken::Closed { path: path() }),
                Ok(Err(source)) => return Err(broken(path(), source)),
                Err(_) => {
                    return Err(Broken::Silent {
                        path: path(),
                        limit: ACKNOWLEDGE,
                    });
                }
            }
        }
        Ok(stream)
    }

    /// Gets through, however long the guest takes until it listens: the caller sets the limit.
    ///
    /// # Errors
    /// When the socket itself is gone, and the VM's process with it.
    pub(crate) async fn open_patiently(&self) -> Result<UnixStream, Broken> {
        loop {
            match self.open().await {
                Err(Broken::Closed { .. } | Broken::Silent { .. }) => sleep(RETRY).await,
                outcome => return outcome,
            }
        }
    }
}

fn broken(path: PathBuf, source: io::Error) -> Broken {
    match source.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Broken::Closed { path },
        _ => Broken::Socket { path, source },
    }
}

/// Asks for a port; false when the far side hangs up or says anything but yes.
async fn ask_for_port(stream: &mut UnixStream, port: u32) -> io::Result<bool> {
    stream
        .write_all(format!("CONNECT {port}\n").as_bytes())
        .await?;
    // Byte by byte: what follows the line is the guest's.
    let mut line = Vec::new();
    while line.len() < MAX_ACKNOWLEDGEMENT {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            return Ok(false);
        }
        if byte == [b'\n'] {
            let number = line.strip_prefix(b"OK ").unwrap_or_default();
            return Ok(!number.is_empty() && number.iter().all(u8::is_ascii_digit));
        }
        line.push(byte[0]);
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn vsock() -> (tempfile::TempDir, UnixListener, GuestEndpoint) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        let listener = UnixListener::bind(&path).unwrap();
        (dir, listener, GuestEndpoint::Vsock { path, port: 52 })
    }

    async fn accept(listener: &UnixListener) -> UnixStream {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = [0; "CONNECT 52\n".len()];
        stream.read_exact(&mut asked).await.unwrap();
        assert_eq!(&asked, b"CONNECT 52\n");
        stream
    }

    #[tokio::test]
    async fn it_gets_through_as_soon_as_somebody_listens_and_takes_nothing_of_what_is_said() {
        let (_dir, listener, endpoint) = vsock();
        let far = async {
            for _ in 0..3 {
                drop(accept(&listener).await);
            }
            let mut stream = accept(&listener).await;
            stream.write_all(b"OK 1073741824\nhello").await.unwrap();
            stream
        };
        let (stream, _far) = timeout(LONG, async { tokio::join!(endpoint.open_patiently(), far) })
            .await
            .unwrap();
        let mut said = [0; 5];
        stream.unwrap().read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"hello");
    }

    #[tokio::test]
    async fn an_answer_that_is_not_yes_is_no() {
        for answer in [
            "",
            "OK",
            "OK \n",
            "OK x\n",
            "NO 1\n",
            "OK 99999999999999999999",
        ] {
            let (_dir, listener, endpoint) = vsock();
            let far = async {
                let mut stream = accept(&listener).await;
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
                stream
            };
            let (opened, _far) = tokio::join!(endpoint.open(), far);
            let error = opened.unwrap_err();
            assert!(
                matches!(error, Broken::Closed { .. }),
                "{answer:?}: {error}"
            );
        }
    }

    #[tokio::test]
    async fn a_socket_that_is_gone_is_not_waited_for() {
        let (dir, listener, endpoint) = vsock();
        drop((listener, dir));
        let opened = timeout(LONG, endpoint.open_patiently()).await.unwrap();
        assert!(matches!(opened, Err(Broken::Socket { .. })));
    }

    #[test]
    fn a_bare_path_in_an_older_record_is_a_socket() {
        let read = |text| serde_json::from_str::<GuestEndpoint>(text).unwrap();
        assert_eq!(
            read(r#""/a/guest.sock""#),
            GuestEndpoint::Socket("/a/guest.sock".into())
        );
        let vsock = GuestEndpoint::Vsock {
            path: "/a".into(),
            port: 1024,
        };
        assert_eq!(read(&serde_json::to_string(&vsock).unwrap()), vsock);
    }
}
