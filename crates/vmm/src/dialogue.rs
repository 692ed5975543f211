//! Conversations over a Unix socket, one line at a time: questions with answers, and news between.
//!
//! QEMU's monitor and our program in the guest speak different words in the same manner: each
//! message is a line, each answer carries its question's number, and news may come at any time. A
//! [`Language`] knows the words; a [`Dialogue`] keeps questions and answers together. Nothing here
//! waits without a limit, because the far side of such a socket may accept and then say nothing.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

/// The longest line that is read; a longer one ends the conversation. QMP's longest answers, of
/// the commands that we use, have a few kilobytes.
const MAX_LINE: u64 = 256 * 1024;

/// The words of a conversation.
pub(crate) trait Language: 'static {
    /// What a question is answered with.
    type Answer: Send + 'static;
    /// What is told without a question.
    type News: Send + 'static;

    /// Understands a line; `None` for one that means nothing to us.
    fn understand(line: &str) -> Option<Heard<Self::Answer, Self::News>>;
}

/// A line that was understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard<A, N> {
    Answer { id: u64, answer: A },
    News(N),
}

/// A conversation that cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// The socket failed.
    #[error("{}: {source}", path.display())]
    Socket { path: PathBuf, source: io::Error },
    /// The far side hung up.
    #[error("{} was closed by the other side", path.display())]
    Closed { path: PathBuf },
    /// The far side kept silent.
    #[error("{} gave no answer within {} s", path.display(), limit.as_secs_f32())]
    Silent { path: PathBuf, limit: Duration },
}

/// Who waits for which answer; none once no answer can come any more.
type Pending<A> = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<A>>>>>;

/// A conversation over a socket.
pub(crate) struct Dialogue<L: Language> {
    path: PathBuf,
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    next_id: std::sync::atomic::AtomicU64,
    pending: Pending<L::Answer>,
    news: tokio::sync::Mutex<mpsc::Receiver<L::News>>,
    _reader: AbortOnDropHandle<()>,
}

/// Connects to a process's socket.
///
/// A jailed process has its socket in a directory of its own, to which a link of ours leads. If that
/// process was taken over, it could have put a link there in its turn, to the socket of another VM: so
/// only one link is followed.
pub(crate) async fn connect(path: &Path) -> io::Result<UnixStream> {
    let place = match fs::read_link(path) {
        Ok(place) => place,
        // EINVAL: it is no link (readlink(2)).
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => path.to_owned(),
        Err(error) => return Err(error),
    };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let socket = rustix::fs::open(&place, flags, Mode::empty())?;
    let found = FileType::from_raw_mode(rustix::fs::fstat(&socket)?.st_mode);
    if found != FileType::Socket {
        return Err(io::Error::other("it is no socket"));
    }
    UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
}

impl<L: Language> Dialogue<L> {
    /// Begins a conversation.
    pub(crate) async fn begin(path: &Path) -> Result<Self, Broken> {
        let stream = connect(path).await.map_err(|source| Broken::Socket {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self::over(stream, path))
    }

    /// Begins a conversation over a stream that leads through this socket.
    pub(crate) fn over(stream: UnixStream, path: &Path) -> Self {
        let (reader, writer) = stream.into_split();
        let pending: Pending<L::Answer> = Arc::new(Mutex::new(Some(HashMap::new())));
        let (news_sender, news) = mpsc::channel(64);
        let reader = tokio::spawn(listen::<L>(reader, pending.clone(), news_sender));
        Self {
            path: path.to_owned(),
            writer: writer.into(),
            next_id: 1.into(),
            pending,
            news: news.into(),
            _reader: AbortOnDropHandle::new(reader),
        }
    }

    /// Asks a question, made from its number, and waits for the answer.
    pub(crate) async fn ask(
        &self,
        limit: Duration,
        question: impl FnOnce(u64) -> String,
    ) -> Result<L::Answer, Broken> {
        self.within(limit, self.ask_patiently(question)).await
    }

    /// The same, and hands the far side an open file with the question.
    pub(crate) async fn ask_with_file(
        &self,
        limit: Duration,
        file: BorrowedFd<'_>,
        question: impl FnOnce(u64) -> String,
    ) -> Result<L::Answer, Broken> {
        self.within(limit, self.ask_and_send(Some(file), question))
            .await
    }

    async fn within(
        &self,
        limit: Duration,
        asking: impl Future<Output = Result<L::Answer, Broken>>,
    ) -> Result<L::Answer, Broken> {
        let answer = tokio::time::timeout(limit, asking).await;
        answer.unwrap_or_else(|_| {
            Err(Broken::Silent {
                path: self.path.clone(),
                limit,
            })
        })
    }

    /// Asks a question whose answer may take any time: the caller sets the limit.
    pub(crate) async fn ask_patiently(
        &self,
        question: impl FnOnce(u64) -> String,
    ) -> Result<L::Answer, Broken> {
        self.ask_and_send(None, question).await
    }

    async fn ask_and_send(
        &self,
        file: Option<BorrowedFd<'_>>,
        question: impl FnOnce(u64) -> String,
    ) -> Result<L::Answer, Broken> {
        let closed = || Broken::Closed {
            path: self.path.clone(),
        };
        let id = self
            .next_id
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        let _forget = ForgetOnDrop {
            id,
            pending: &self.pending,
        };
        lock(&self.pending)
            .as_mut()
            .ok_or_else(closed)?
            .insert(id, sender);

        let mut line = question(id);
        line.push('\n');
        let written = async {
            let mut writer = self.writer.lock().await;
            let sent = match file {
                Some(file) => send_with_file(&writer, line.as_bytes(), file).await?,
                None => 0,
            };
            writer.write_all(&line.as_bytes()[sent..]).await
        };
        written.await.map_err(|source| Broken::Socket {
            path: self.path.clone(),
            source,
        })?;
        answer.await.map_err(|_| closed())
    }

    /// The next news; `None` once the conversation has ended.
    pub(crate) async fn news(&self) -> Option<L::News> {
        self.news.lock().await.recv().await
    }
}

/// Sends the beginning of a line, and an open file with it (unix(7), `SCM_RIGHTS`). Says how much
/// of the line was sent: all of it, unless the socket was nearly full.
async fn send_with_file(
    writer: &OwnedWriteHalf,
    line: &[u8],
    file: BorrowedFd<'_>,
) -> io::Result<usize> {
    let socket: &UnixStream = writer.as_ref();
    let send = || {
        let files = [file];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let pushed = ancillary.push(SendAncillaryMessage::ScmRights(&files));
        debug_assert!(pushed, "there is space for one");
        let text = [io::IoSlice::new(line)];
        Ok(sendmsg(socket, &text, &mut ancillary, SendFlags::NOSIGNAL)?)
    };
    socket.async_io(Interest::WRITABLE, send).await
}

/// A question that nobody waits for any more is struck out, so that a silent far side cannot make
/// us collect them.
struct ForgetOnDrop<'a, A> {
    id: u64,
    pending: &'a Pending<A>,
}

impl<A> Drop for ForgetOnDrop<'_, A> {
    fn drop(&mut self) {
        if let Some(pending) = lock(self.pending).as_mut() {
            pending.remove(&self.id);
        }
    }
}

async fn listen<L: Language>(
    reader: OwnedReadHalf,
    pending: Pending<L::Answer>,
    news: mpsc::Sender<L::News>,
) {
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut reader)
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .await;
        if !matches!(read, Ok(1..)) || line.last() != Some(&b'\n') {
            break;
        }
        match L::understand(String::from_utf8_lossy(&line).trim()) {
            Some(Heard::Answer { id, answer }) => {
                let waiting = lock(&pending)
                    .as_mut()
                    .and_then(|pending| pending.remove(&id));
                // An answer that nobody waits for came too late, or to an earlier conversation.
                if let Some(sender) = waiting {
                    let _ = sender.send(answer);
                }
            }
            // Whoever does not listen must not stop the answers: beyond the room for them, news
            // are lost.
            Some(Heard::News(item)) => drop(news.try_send(item)),
            None => {}
        }
    }
    // Whoever still waits, and whoever comes later, learns at once that no answer will come.
    lock(&pending).take();
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use tokio::net::UnixListener;

    use super::*;

    /// Words for tests: `7 text` answers question 7, `!text` is news.
    struct Plain;

    impl Language for Plain {
        type Answer = String;
        type News = String;

        fn understand(line: &str) -> Option<Heard<String, String>> {
            if let Some(news) = line.strip_prefix('!') {
                return Some(Heard::News(news.to_owned()));
            }
            let (id, answer) = line.split_once(' ')?;
            Some(Heard::Answer {
                id: id.parse().ok()?,
                answer: answer.to_owned(),
            })
        }
    }

    #[tokio::test]
    async fn one_link_leads_to_a_socket_and_no_second() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        let _listener = UnixListener::bind(place("socket")).unwrap();
        std::os::unix::fs::symlink(place("socket"), place("ours")).unwrap();
        std::os::unix::fs::symlink(place("ours"), place("theirs")).unwrap();
        fs::write(place("file"), "").unwrap();
        connect(&place("socket")).await.unwrap();
        connect(&place("ours")).await.unwrap();
        for other in ["theirs", "file"] {
            let error = connect(&place(other)).await.unwrap_err();
            assert!(error.to_string().contains("no socket"), "{other}: {error}");
        }
        let missing = connect(&place("missing")).await.unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    async fn pair() -> (tempfile::TempDir, Dialogue<Plain>, UnixStream) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let dialogue = Dialogue::begin(&path).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        (dir, dialogue, far)
    }

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn answers_find_their_questions_in_any_order_and_news_come_through() {
        let (_dir, dialogue, mut far) = pair().await;
        let answers = async {
            tokio::join!(
                dialogue.ask(LONG, |id| format!("first {id}")),
                dialogue.ask(LONG, |id| format!("second {id}")),
            )
        };
        let far_side = async {
            let mut heard = vec![0; "first 1\nsecond 2\n".len()];
            far.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, b"first 1\nsecond 2\n");
            far.write_all(b"nonsense\n99 stale\n!hello\n2 two\n1 one\n")
                .await
                .unwrap();
        };
        let ((one, two), ()) = tokio::join!(answers, far_side);
        assert_eq!(
            (one.unwrap().as_str(), two.unwrap().as_str()),
            ("one", "two")
        );
        assert_eq!(dialogue.news().await.as_deref(), Some("hello"));
    }

    #[tokio::test]
    async fn a_file_arrives_with_its_question() {
        let (_dir, dialogue, far) = pair().await;
        let given = tempfile::tempfile().unwrap();
        let far_side = async {
            far.readable().await.unwrap();
            let mut line = [0; 64];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut room = [io::IoSliceMut::new(&mut line)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let received = recvmsg(&far, &mut room, &mut ancillary, flags).unwrap();
            assert_eq!(&line[..received.bytes], b"take this 1\n");
            let mut messages = ancillary.drain();
            let Some(RecvAncillaryMessage::ScmRights(mut files)) = messages.next() else {
                panic!("no file came")
            };
            let mut file = std::fs::File::from(files.next().unwrap());
            io::Write::write_all(&mut file, b"from afar").unwrap();
            far.try_write(b"1 thanks\n").unwrap();
        };
        let asked = dialogue.ask_with_file(LONG, given.as_fd(), |id| format!("take this {id}"));
        let (answer, ()) = tokio::join!(asked, far_side);
        assert_eq!(answer.unwrap(), "thanks");
        assert_eq!(given.metadata().unwrap().len(), 9);
    }

    #[tokio::test]
    async fn silence_is_an_error_and_leaves_nothing_to_wait_for() {
        let (_dir, dialogue, _far) = pair().await;
        let answer = dialogue
            .ask(Duration::from_millis(20), |id| id.to_string())
            .await;
        assert!(matches!(answer, Err(Broken::Silent { .. })));
        assert!(lock(&dialogue.pending).as_ref().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_closed_socket_ends_every_question_and_the_news() {
        let (_dir, dialogue, mut far) = pair().await;
        let close = async {
            let mut byte = [0; 2];
            far.read_exact(&mut byte).await.unwrap();
            drop(far);
        };
        let (answer, ()) = tokio::join!(dialogue.ask(LONG, |id| id.to_string()), close);
        assert!(answer.is_err());
        assert_eq!(dialogue.news().await, None);
        let late = dialogue.ask_patiently(|id| id.to_string());
        assert!(tokio::time::timeout(LONG, late).await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_not_collected_for_ever() {
        let (_dir, dialogue, mut far) = pair().await;
        let chunk = vec![b'x'; 64 * 1024];
        let endless = async { while far.write_all(&chunk).await.is_ok() {} };
        tokio::select! {
            () = endless => panic!("the socket was closed, and the conversation was not"),
            news = tokio::time::timeout(LONG, dialogue.news()) => assert_eq!(news, Ok(None)),
        }
        // The socket still takes what is written to it, but nobody listens for an answer any more.
        let late = dialogue.ask_patiently(|id| id.to_string());
        let late = tokio::time::timeout(LONG, late).await.unwrap();
        assert!(matches!(late, Err(Broken::Closed { .. })), "{late:?}");
    }
}
