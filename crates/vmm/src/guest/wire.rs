//! One conversation with a guest: one task writes whole lines, one reads them and gives each to the
//! channel that its number belongs to.
//!
//! The reader never waits for a channel. What a guest may send to one is counted, and a channel
//! that gets more than that is closed: so a guest cannot fill our memory, nor one command keep the
//! others waiting.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::channel::{Channel, Room};
use super::lines::Lines;
use super::lock;
use super::protocol::{Line, MIN_COST, Reply, Request, WINDOW, cost};
use crate::dialogue::Broken;

/// Lines that wait for being written. Each may be as long as one may be.
const QUEUE: usize = 16;

/// Messages that a channel has room for: as many as fit into the window, and a few that are none
/// of data.
pub(super) const MESSAGES: usize = (WINDOW / MIN_COST) as usize + 8;

/// So much that belongs to nobody is heard in a row, in bytes; then it is noise. Commands that were
/// left leave less than that behind.
const MAX_NOISE: usize = 16 * 1024 * 1024;

/// A conversation over a stream.
pub(super) struct Wire {
    shared: Arc<Shared>,
    version: OnceLock<u32>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

/// What channels know of their conversation.
pub(super) struct Shared {
    path: PathBuf,
    queue: mpsc::Sender<String>,
    next_id: AtomicU64,
    /// Whether it was given up because nothing in it made sense.
    noise: AtomicBool,
    /// Who waits for which number; none once nothing can come any more.
    inboxes: Mutex<Option<HashMap<u64, Inbox>>>,
}

/// Where what belongs to a number goes.
struct Inbox {
    replies: mpsc::Sender<Reply>,
    /// How much data the guest may still send.
    allowance: u32,
    room: Arc<Room>,
}

impl Wire {
    pub(super) fn over(stream: UnixStream, path: &Path) -> Self {
        let (reader, writer) = stream.into_split();
        let (queue, lines) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            queue,
            // What is left of earlier conversations must not look like a part of this one.
            next_id: AtomicU64::new(u64::from(rand::random::<u32>()) << 24),
            noise: AtomicBool::new(false),
            inboxes: Mutex::new(Some(HashMap::new())),
        });
        let heard_by = Arc::clone(&shared);
        let over = CancellationToken::new();
        let writing = tokio::spawn(write(writer, lines, over.clone()));
        let reading = tokio::spawn(async move {
            read(reader, heard_by).await;
            over.cancel()
        });
        Self {
            shared,
            version: OnceLock::new(),
            _tasks: [reading, writing].map(AbortOnDropHandle::new),
        }
    }

    /// What the guest speaks, once it has been greeted.
    pub(super) fn version(&self) -> Option<u32> {
        self.version.get().copied()
    }

    pub(super) fn set_version(&self, version: u32) {
        let _ = self.version.set(version);
    }

    pub(super) fn is_over(&self) -> bool {
        lock(&self.shared.inboxes).is_none()
    }

    /// Whether it is over because the guest only made noise: it would again.
    pub(super) fn was_noise(&self) -> bool {
        self.shared.noise.load(Ordering::Acquire)
    }

    /// Asks a question that has one answer, which may take any time.
    pub(super) async fn ask(&self, request: Request) -> Result<Reply, Broken> {
        let mut channel = self.begin(request, 1).await?;
        channel.next().await.ok_or_else(|| self.shared.closed())
    }

    /// Says something that is answered more than once. Whoever drops the channel kills the command.
    pub(super) async fn open(&self, request: Request) -> Result<Channel, Broken> {
        let mut channel = self.begin(request, MESSAGES).await?;
        channel.kill_at_the_end();
        Ok(channel)
    }

    async fn begin(&self, request: Request, messages: usize) -> Result<Channel, Broken> {
        let shared = &self.shared;
        let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
        let (replies, inbox) = mpsc::channel(messages);
        let room = Arc::new(Room::default());
        // The line break first ends what an earlier conversation may have left half said.
        let before = if request == Request::Hello { "\n" } else { "" };
        let line = format!("{before}{}\n", Line { id, body: request });
        let place = shared.queue.reserve().await;
        let place = place.map_err(|_| shared.closed())?;
        lock(&shared.inboxes)
            .as_mut()
            .ok_or_else(|| shared.closed())?
            .insert(
                id,
                Inbox {
                    replies,
                    allowance: WINDOW,
                    room: Arc::clone(&room),
                },
            );
        place.send(line);
        Ok(Channel::new(id, inbox, room, Arc::clone(shared)))
    }
}

impl Shared {
    pub(super) fn closed(&self) -> Broken {
        Broken::Closed {
            path: self.path.clone(),
        }
    }

    /// Says something of a channel.
    pub(super) async fn say(&self, id: u64, body: Request) -> Result<(), Broken> {
        let line = format!("{}\n", Line { id, body });
        self.queue.send(line).await.map_err(|_| self.closed())
    }

    /// The same for those who cannot wait: it is said in its turn.
    pub(super) fn say_later(&self, id: u64, body: Request) {
        let line = format!("{}\n", Line { id, body });
        if let Err(mpsc::error::TrySendError::Full(line)) = self.queue.try_send(line)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let queue = self.queue.clone();
            runtime.spawn(async move {
                let _ = queue.send(line).await;
            });
        }
    }

    /// Lets the guest send so much more on a channel.
    pub(super) async fn give_back(&self, id: u64, bytes: u32) -> Result<(), Broken> {
        let place = self.queue.reserve().await.map_err(|_| self.closed())?;
        if let Some(inbox) = lock(&self.inboxes)
            .as_mut()
            .and_then(|all| all.get_mut(&id))
        {
            inbox.allowance += bytes;
        }
        let body = Request::Credit(bytes);
        place.send(format!("{}\n", Line { id, body }));
        Ok(())
    }

    pub(super) fn forget(&self, id: u64) {
        if let Some(inboxes) = lock(&self.inboxes).as_mut() {
            inboxes.remove(&id);
        }
    }

    /// Gives a reply to whom it belongs; false when it belongs to nobody.
    fn deliver(&self, Line { id, body }: Line<Reply>) -> bool {
        let mut inboxes = lock(&self.inboxes);
        let Some(inboxes) = inboxes.as_mut() else {
            return false;
        };
        let Some(inbox) = inboxes.get_mut(&id) else {
            return false;
        };
        let taken = match &body {
            Reply::Credit(bytes) => return inbox.room.returned(*bytes),
            Reply::Out(data) | Reply::Err(data) => {
                match inbox.allowance.checked_sub(cost(data.len())) {
                    Some(left) => {
                        inbox.allowance = left;
                        inbox.replies.try_send(body).is_ok()
                    }
                    None => false,
                }
            }
            _ => inbox.replies.try_send(body).is_ok(),
        };
        if !taken {
            // It sent more than there is room for, or nobody listens any more.
            inboxes.remove(&id);
        }
        taken
    }
}

/// Writes whole lines, until nobody listens for what comes back: then it hangs up.
async fn write(
    mut writer: OwnedWriteHalf,
    mut lines: mpsc::Receiver<String>,
    over: CancellationToken,
) {
    let writing = async {
        while let Some(line) = lines.recv().await {
            if let Err(error) = writer.write_all(line.as_bytes()).await {
                tracing::debug!(%error, "nothing can be said to a guest any more");
                return;
            }
        }
    };
    over.run_until_cancelled(writing).await;
}

async fn read(mut reader: OwnedReadHalf, shared: Arc<Shared>) {
    let mut lines = Lines::default();
    let mut chunk = vec![0; 64 * 1024];
    let mut noise = 0;
    while let Ok(length @ 1..) = reader.read(&mut chunk).await {
        noise += length;
        lines.push(&chunk[..length], |line| {
            let line = String::from_utf8_lossy(line);
            if line.parse().is_ok_and(|line| shared.deliver(line)) {
                noise = 0;
            }
        });
        if noise > MAX_NOISE {
            tracing::warn!(
                socket = %shared.path.display(),
                "a guest only makes noise and is not listened to any more"
            );
            shared.noise.store(true, Ordering::Release);
            break;
        }
    }
    // Whoever still waits, and whoever comes later, learns at once that nothing will come.
    lock(&shared.inboxes).take();
}
