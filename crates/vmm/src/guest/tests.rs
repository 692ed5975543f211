//! A guest that these tests play: what an honest one says, and what a hostile one may.

use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::protocol::{
    CHUNK, Exec, Line, MAX_LINE, MIN_COST, Refusal, Refused, Reply, Request, VERSION, WINDOW, cost,
};
use super::*;

const LONG: Duration = Duration::from_secs(60);

/// The far side.
struct Far {
    stream: BufReader<UnixStream>,
    _dir: tempfile::TempDir,
}

impl Far {
    async fn new() -> (Arc<Guest>, Self) {
        let dir = tempfile::tempdir().unwrap();
        let path: PathBuf = dir.path().join("guest");
        let listener = UnixListener::bind(&path).unwrap();
        let guest = Guest::connect(&GuestEndpoint::Socket(path)).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let stream = BufReader::new(stream);
        (Arc::new(guest), Self { stream, _dir: dir })
    }

    /// One that has been greeted.
    async fn greeted() -> (Arc<Guest>, Self) {
        let (guest, mut far) = Self::new().await;
        let (version, ()) = tokio::join!(guest.ready(), far.greet(VERSION));
        assert_eq!(version.unwrap(), VERSION);
        (guest, far)
    }

    async fn greet(&mut self, version: u32) {
        let hello = self.hear().await;
        assert_eq!(hello.body, Request::Hello);
        self.say(hello.id, Reply::Hello { version }).await;
    }

    async fn hear(&mut self) -> Line<Request> {
        loop {
            let mut line = String::new();
            let read = timeout(LONG, self.stream.read_line(&mut line)).await;
            assert!(read.expect("it says something").unwrap() > 0, "it hung up");
            if !line.trim().is_empty() {
                return line.parse().unwrap();
            }
        }
    }

    async fn say(&mut self, id: u64, body: Reply) {
        let line = format!("{}\n", Line { id, body });
        self.write(line.as_bytes()).await;
    }

    async fn write(&mut self, bytes: &[u8]) {
        let written = timeout(LONG, self.stream.get_mut().write_all(bytes)).await;
        // Whoever is not listened to any more may be hung up on.
        let _ = written.expect("it listens");
    }

    /// Starts a command, and says by which number.
    async fn start(&mut self, guest: &Arc<Guest>) -> (Execution, u64) {
        let started = tokio::spawn({
            let guest = Arc::clone(guest);
            async move { guest.exec(command()).await }
        });
        let exec = self.hear().await;
        assert_eq!(exec.body, Request::Exec(command()));
        self.say(exec.id, Reply::Started).await;
        (started.await.unwrap().unwrap(), exec.id)
    }
}

fn command() -> Exec {
    Exec {
        argv: vec![b"true".to_vec()],
        ..Exec::default()
    }
}

async fn next(execution: &mut Execution) -> Result<Option<ExecEvent>, GuestProblem> {
    timeout(LONG, execution.next()).await.expect("an event")
}

#[tokio::test]
async fn an_older_guest_is_told_apart_and_can_still_be_ended() {
    let (guest, mut far) = Far::new().await;
    let (ready, ()) = tokio::join!(guest.ready(), far.greet(1));
    assert_eq!(ready.unwrap(), 1);
    let refused = guest.exec(command()).await.unwrap_err();
    assert!(matches!(refused, GuestProblem::Older { version: 1 }));
    let read = guest.read_file("/etc/hosts", 0, 9).await.unwrap_err();
    assert!(matches!(read, GuestProblem::Older { version: 1 }));

    let far_side = async {
        let asked = far.hear().await;
        assert_eq!(asked.body, Request::PowerOff { grace_ms: 2000 });
        far.say(asked.id, Reply::Done).await;
    };
    let (ended, ()) = tokio::join!(guest.power_off(Duration::from_secs(2)), far_side);
    ended.unwrap();
}

#[tokio::test]
async fn a_command_speaks_until_its_end_and_leaves_nothing() {
    let (guest, mut far) = Far::greeted().await;
    let (mut execution, id) = far.start(&guest).await;
    far.say(id, Reply::Out(b"a\n\xff".to_vec())).await;
    far.say(id, Reply::Err(Vec::new())).await;
    far.say(id, Reply::Exited { code: 7 }).await;
    let said = b"a\n\xff".to_vec();
    assert_eq!(
        next(&mut execution).await.unwrap(),
        Some(ExecEvent::Stdout(said))
    );
    assert_eq!(
        next(&mut execution).await.unwrap(),
        Some(ExecEvent::Stderr(Vec::new()))
    );
    assert_eq!(
        next(&mut execution).await.unwrap(),
        Some(ExecEvent::Exited(7))
    );
    assert_eq!(next(&mut execution).await.unwrap(), None);
    let late = guest.exec_input(execution.id(), b"x", false).await;
    assert!(matches!(late, Err(GuestProblem::NoSuchCommand)));
    drop(execution);
    // Nothing is killed that has ended: the next thing it hears is the next command.
    far.start(&guest).await;
}

#[tokio::test]
async fn leaving_a_command_kills_it() {
    let (guest, mut far) = Far::greeted().await;
    let (execution, id) = far.start(&guest).await;
    drop(execution);
    let killed = far.hear().await;
    assert_eq!((killed.id, killed.body), (id, Request::Kill));
    assert!(lock(&guest.executions).is_empty());
}

#[tokio::test]
async fn whoever_does_not_read_keeps_nobody_waiting() {
    let (guest, mut far) = Far::greeted().await;
    let (mut slow, first) = far.start(&guest).await;
    let (mut quick, second) = far.start(&guest).await;
    for _ in 0..WINDOW / cost(CHUNK) {
        far.say(first, Reply::Out(vec![b'x'; CHUNK])).await;
    }
    far.say(second, Reply::Out(b"hello".to_vec())).await;
    let hello = ExecEvent::Stdout(b"hello".to_vec());
    assert_eq!(next(&mut quick).await.unwrap(), Some(hello));

    // What was taken is given back, before more is waited for.
    for _ in 0..WINDOW / cost(CHUNK) {
        assert!(matches!(
            next(&mut slow).await.unwrap(),
            Some(ExecEvent::Stdout(_))
        ));
    }
    let waiting = tokio::spawn(async move { next(&mut slow).await });
    let mut credit = 0;
    while credit < WINDOW {
        let given = far.hear().await;
        let Request::Credit(bytes) = given.body else {
            panic!("{given:?}");
        };
        assert_eq!(given.id, first);
        credit += bytes;
    }
    assert_eq!(credit, WINDOW);
    far.say(first, Reply::Exited { code: 0 }).await;
    assert_eq!(waiting.await.unwrap().unwrap(), Some(ExecEvent::Exited(0)));
}

#[tokio::test]
async fn a_guest_that_sends_more_than_it_may_loses_that_command_and_no_other() {
    let flood = [
        vec![Reply::Out(vec![0; CHUNK]); (WINDOW / cost(CHUNK)) as usize + 1],
        vec![Reply::Err(Vec::new()); (WINDOW / MIN_COST) as usize + 1],
        vec![Reply::Started; wire::MESSAGES + 1],
    ];
    let (guest, mut far) = Far::greeted().await;
    let (mut other, second) = far.start(&guest).await;
    for replies in flood {
        let (mut flooded, first) = far.start(&guest).await;
        for reply in replies {
            far.say(first, reply).await;
        }
        // Once this one is through, all of that was heard.
        far.say(second, Reply::Out(b"fine".to_vec())).await;
        let fine = ExecEvent::Stdout(b"fine".to_vec());
        assert_eq!(next(&mut other).await.unwrap(), Some(fine));
        let last = loop {
            match next(&mut flooded).await {
                Ok(Some(_)) => {}
                end => break end,
            }
        };
        assert!(last.is_err(), "{last:?}");
        drop(flooded);
        // It is told that nobody wants the command any more.
        let told = loop {
            let told = far.hear().await;
            if !matches!(told.body, Request::Credit(_)) {
                break told;
            }
        };
        assert_eq!((told.id, told.body), (first, Request::Kill));
    }
}

#[tokio::test]
async fn garbage_is_passed_over_and_a_guest_that_says_nothing_else_is_not_listened_to() {
    let (guest, mut far) = Far::greeted().await;
    let (mut execution, id) = far.start(&guest).await;
    far.write(b"\0\xff\xfe garbage\n\n18446744073709551616 done\n")
        .await;
    far.write(format!("{id} dance\n{id} out *\n{} exited 0\n", id + 1).as_bytes())
        .await;
    far.write(&vec![b'x'; 3 * MAX_LINE]).await;
    far.write(b"\n").await;
    far.say(id, Reply::Credit(u32::MAX)).await;
    far.say(id, Reply::Out(b"sense".to_vec())).await;
    let sense = ExecEvent::Stdout(b"sense".to_vec());
    assert_eq!(next(&mut execution).await.unwrap(), Some(sense));

    let noise = vec![b'\n'; 1 << 20];
    let ended = tokio::spawn(async move { next(&mut execution).await });
    for _ in 0..20 {
        far.write(&noise).await;
    }
    assert!(matches!(ended.await.unwrap(), Err(GuestProblem::Lost)));
    let late = timeout(LONG, guest.exec(command())).await.unwrap();
    assert!(matches!(late, Err(GuestProblem::Lost)));
}

#[tokio::test]
async fn a_conversation_that_broke_off_is_begun_again_and_what_was_in_it_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("guest");
    let listener = UnixListener::bind(&path).unwrap();
    let guest = Guest::connect(&GuestEndpoint::Socket(path)).await.unwrap();
    let guest = Arc::new(guest);
    let accept = async |dir| {
        let (stream, _) = timeout(LONG, listener.accept()).await.unwrap().unwrap();
        let stream = BufReader::new(stream);
        Far { stream, _dir: dir }
    };
    let mut far = accept(dir).await;
    let (ready, ()) = tokio::join!(guest.ready(), far.greet(VERSION));
    assert_eq!(ready.unwrap(), VERSION);
    let (mut execution, _) = far.start(&guest).await;

    let Far { stream, _dir: dir } = far;
    drop(stream);
    let lost = next(&mut execution).await;
    assert!(matches!(lost, Err(GuestProblem::Lost)), "{lost:?}");
    let again = tokio::spawn({
        let guest = Arc::clone(&guest);
        async move { guest.exec(command()).await }
    });
    let mut far = accept(dir).await;
    far.greet(VERSION).await;
    let exec = far.hear().await;
    far.say(exec.id, Reply::Started).await;
    let mut execution = again.await.unwrap().unwrap();
    far.say(exec.id, Reply::Exited { code: 0 }).await;
    let ended = next(&mut execution).await.unwrap();
    assert_eq!(ended, Some(ExecEvent::Exited(0)));
}

#[tokio::test]
async fn input_waits_for_room() {
    let (guest, mut far) = Far::greeted().await;
    let (execution, id) = far.start(&guest).await;
    let data: Vec<u8> = (0..3 * WINDOW).map(|at| at as u8).collect();
    let input = tokio::spawn({
        let (guest, data, exec) = (Arc::clone(&guest), data.clone(), execution.id());
        async move { guest.exec_input(exec, &data, true).await }
    });
    let (mut heard, mut unreturned) = (Vec::new(), 0);
    while heard.len() < data.len() {
        let Line { body, .. } = far.hear().await;
        let Request::In(piece) = body else {
            panic!("{body:?}");
        };
        unreturned += cost(piece.len());
        assert!(unreturned <= WINDOW, "it sent more than there is room for");
        heard.extend(piece);
        if unreturned == WINDOW {
            assert!(!input.is_finished() || heard.len() == data.len());
            far.say(id, Reply::Credit(unreturned)).await;
            unreturned = 0;
        }
    }
    assert!(heard == data);
    assert_eq!(far.hear().await.body, Request::Eof);
    input.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_never_answers_is_not_waited_for_for_ever() {
    let (guest, _far) = Far::new().await;
    let never = guest.exec(command()).await;
    assert!(matches!(never, Err(GuestProblem::NotReady)), "{never:?}");
}

#[tokio::test(start_paused = true)]
async fn nor_is_one_that_falls_silent() {
    let (guest, far) = Far::greeted().await;
    let exec = guest.exec(command()).await;
    assert!(matches!(exec, Err(GuestProblem::Silent)), "{exec:?}");
    let read = guest.read_file("/x", 0, 1).await;
    assert!(matches!(read, Err(GuestProblem::Silent)), "{read:?}");
    // It does not even read, so nothing more fits into the socket.
    let data = vec![0; 64 * 1024];
    let mut told = Ok(());
    for _ in 0..100 {
        told = guest.write_into_file("/x", 0, &data).await;
    }
    assert!(matches!(told, Err(GuestProblem::Silent)), "{told:?}");
    drop(far);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_flushed_for_long_is_waited_for_and_discarded_when_that_is_too_long() {
    let (guest, mut far) = Far::greeted().await;
    for (flushing, in_time) in [(Duration::from_secs(240), true), (FLUSHED * 2, false)] {
        let replacing = tokio::spawn({
            let guest = Arc::clone(&guest);
            async move { guest.replace_file("/x", b"new", None).await }
        });
        let piece = far.hear().await;
        assert!(matches!(piece.body, Request::Write { .. }), "{piece:?}");
        far.say(piece.id, Reply::Done).await;
        let asked = far.hear().await;
        let Request::Commit { path, stage, .. } = asked.body else {
            panic!("{asked:?}");
        };
        tokio::time::sleep(flushing).await;
        if in_time {
            far.say(asked.id, Reply::Done).await;
            replacing.await.unwrap().unwrap();
            continue;
        }
        let given_up = far.hear().await;
        assert_eq!(given_up.body, Request::Discard { path, stage });
        far.say(given_up.id, Reply::Done).await;
        let told = replacing.await.unwrap();
        assert!(matches!(told, Err(GuestProblem::Silent)), "{told:?}");
    }
}

#[tokio::test]
async fn a_refusal_says_of_which_kind_it_is() {
    let (guest, mut far) = Far::greeted().await;
    for (kind, reason) in [
        (Refusal::NotFound, "no such file"),
        (Refusal::Busy, "too many"),
        (Refusal::System, "no space"),
    ] {
        let far_side = async {
            let asked = far.hear().await;
            let reason = reason.to_owned();
            far.say(asked.id, Reply::Refused(Refused { kind, reason }))
                .await;
        };
        let (read, ()) = tokio::join!(guest.read_file("/x", 0, 1), far_side);
        let problem = read.unwrap_err();
        assert!(problem.to_string().contains(reason), "{problem}");
        match kind {
            Refusal::NotFound => assert!(matches!(problem, GuestProblem::FileNotFound { .. })),
            Refusal::Busy => assert!(matches!(problem, GuestProblem::Busy { .. })),
            _ => assert!(matches!(problem, GuestProblem::Refused { .. })),
        }
    }
}

#[tokio::test]
async fn a_file_that_is_larger_than_it_may_be_is_nonsense() {
    let (guest, mut far) = Far::greeted().await;
    let far_side = async {
        let asked = far.hear().await;
        let reply = Reply::Content {
            size: 9,
            mode: 0o644,
            data: vec![0; 9],
        };
        far.say(asked.id, reply).await;
    };
    let (read, ()) = tokio::join!(guest.read_file("/x", 0, 3), far_side);
    assert!(matches!(read, Err(GuestProblem::Nonsense)));
}

proptest::proptest! {
    #[test]
    fn whatever_a_guest_says_panics_nothing(line in ".{0,80}") {
        let _ = line.parse::<Line<Reply>>();
        let _ = line.parse::<Line<Request>>();
    }

    #[test]
    fn what_is_understood_can_be_said_again(
        line in "[0-9]{1,3} (out|err|credit|exited|killed|hello|refused|content|done|started)\
                 ( (busy|size=[0-9]{1,4}|mode=[0-7]{1,4}|data=[A-Za-z0-9+/]{0,8}|[0-9A-Za-z=]{0,8})){0,3}",
    ) {
        if let Ok(understood) = line.parse::<Line<Reply>>() {
            proptest::prop_assert_eq!(understood.to_string().parse(), Ok(understood));
        }
    }

    #[test]
    fn requests_come_through_whatever_is_in_them(
        argv in proptest::collection::vec(proptest::collection::vec(0_u8.., 0..20), 1..5),
        env in proptest::collection::vec(proptest::collection::vec(0_u8.., 0..20), 0..3),
        data in proptest::collection::vec(0_u8.., 0..200),
        offset: u64,
    ) {
        let exec = Exec { argv: argv.clone(), env, cwd: Some(data.clone()), tty: None };
        let write = Request::Write { path: argv[0].clone(), offset, data: data.clone(), stage: None };
        for body in [Request::Exec(exec), write, Request::In(data)] {
            let line = Line { id: offset, body };
            proptest::prop_assert_eq!(line.to_string().parse(), Ok(line));
        }
    }
}
