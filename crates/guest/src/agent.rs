//! The agent: answers the host over a virtio serial port, or a vsock, one line at a time.
//!
//! This thread reads what the host says and never waits for anything else, so that the host is
//! always heard. Whatever takes time (a command, a file) has a thread of its own, and all of them
//! speak through one [`Voice`].

mod command;
mod commands;
mod files;
mod staging;
mod terminal;
mod vsock;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::error::{Context, Result};
use crate::lines::Lines;
use crate::protocol::{Line, PORT_NAME, Refusal, Refused, Reply, Request, VERSION};
use crate::shutdown::{self, Off};
use commands::Commands;

/// How often to look again while no host listens: reads end at once then.
const RETRY: Duration = Duration::from_millis(50);

/// A clock that is off by less is left alone: programs do not like time that jumps.
const CLOCK_TOLERANCE_NANOS: u64 = 20_000_000;

/// Answers until the guest ends.
pub(crate) fn run() -> Result<()> {
    // Without us nobody can help a guest that has run out of memory, so others go first.
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    let Some(path) = find_port(Path::new("/sys/class/virtio-ports")) else {
        // A VM with neither has a host that does not want to talk.
        if !Path::new("/dev/vsock").exists() {
            return Ok(());
        }
        return vsock::serve().context(|| "talk to the host through a vsock".to_owned());
    };
    let port = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .context(|| format!("open {}", path.display()))?;
    serve(Arc::new(port)).context(|| format!("talk to the host through {}", path.display()))
}

/// Finds the device by the port's name; its number depends on the machine.
fn find_port(class: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(class).ok()?;
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
    let device = names.into_iter().find(|name| {
        let label = fs::read_to_string(class.join(name).join("name"));
        label.is_ok_and(|label| label.trim() == PORT_NAME)
    })?;
    Some(Path::new("/dev").join(device))
}

fn serve(port: Arc<File>) -> io::Result<()> {
    let voice = Voice::new(Arc::clone(&port));
    let agent = Agent {
        commands: Commands::new(voice.clone()),
        voice,
        off: Off::Power,
    };
    let mut lines = Lines::default();
    let mut chunk = vec![0; 16 * 1024];
    let mut ear = &*port;
    loop {
        match ear.read(&mut chunk) {
            Ok(0) => {
                // The host has hung up, or is not there yet.
                agent.commands.end_all();
                thread::sleep(RETRY);
            }
            Ok(length) => lines.push(&chunk[..length], |line| {
                agent.hear(&String::from_utf8_lossy(line));
            }),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What everybody in here says to the host, each line whole.
#[derive(Clone)]
struct Voice(Arc<Mutex<Box<dyn Write + Send>>>);

impl Voice {
    fn new(port: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Box::new(port))))
    }

    /// Says a line. While the host does not listen this waits; what cannot be said at all was said
    /// to nobody.
    fn say(&self, id: u64, body: Reply) {
        let line = format!("{}\n", Line { id, body });
        let mut port = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = port.write_all(line.as_bytes());
    }

    fn refuse(&self, id: u64, kind: Refusal, reason: impl Into<String>) {
        let reason = reason.into();
        self.say(id, Reply::Refused(Refused { kind, reason }));
    }
}

struct Agent {
    voice: Voice,
    commands: Commands,
    off: Off,
}

impl Agent {
    fn hear(&self, line: &str) {
        match line.parse() {
            Ok(Line { id, body }) => self.answer(id, body),
            // A new host begins with an empty line, to end what another may have left half said.
            Err(unknown) => {
                if let Some(id) = unknown.id {
                    let reason = format!("unknown request {:?}", unknown.text);
                    self.voice.say(id, Reply::Failed { reason });
                }
            }
        }
    }

    fn answer(&self, id: u64, request: Request) {
        match request {
            Request::Hello => {
                self.commands.end_all();
                self.voice.say(id, Reply::Hello { version: VERSION });
            }
            Request::PowerOff { grace_ms } => {
                self.voice.say(id, Reply::Done);
                let failed = shutdown::power_off(Duration::from_millis(grace_ms.into()), self.off);
                if let Err(error) = failed {
                    eprintln!("hostler-guest: cannot switch off: {error}");
                }
            }
            Request::Clock { unix_nanos } => match set_clock(unix_nanos) {
                Ok(()) => self.voice.say(id, Reply::Done),
                Err(error) => {
                    let reason = format!("the clock cannot be set: {error}");
                    self.voice.refuse(id, Refusal::System, reason);
                }
            },
            Request::Exec(exec) => self.commands.begin(id, exec),
            Request::In(data) => self.commands.tell(id, |mail| mail.input(data)),
            Request::Eof => self.commands.tell(id, |mail| mail.end_of_input()),
            Request::Credit(bytes) => self.commands.tell(id, |mail| mail.credit(bytes)),
            Request::Resize(size) => self.commands.tell(id, |mail| mail.resize(size)),
            Request::Kill => self.commands.tell(id, |mail| mail.kill()),
            Request::Read { .. }
            | Request::Write { .. }
            | Request::Commit { .. }
            | Request::Discard { .. } => self.commands.aside(id, move || files::answer(request)),
        }
    }
}

fn set_clock(unix_nanos: u64) -> io::Result<()> {
    const SECOND: u64 = 1_000_000_000;
    let now = clock_gettime(ClockId::Realtime);
    let now = u64::try_from(now.tv_sec).unwrap_or(0) * SECOND + now.tv_nsec as u64;
    if now.abs_diff(unix_nanos) < CLOCK_TOLERANCE_NANOS {
        return Ok(());
    }
    let time = Timespec {
        tv_sec: (unix_nanos / SECOND).cast_signed(),
        tv_nsec: (unix_nanos % SECOND).cast_signed(),
    };
    Ok(clock_settime(ClockId::Realtime, time)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A port that only keeps what is said.
    #[derive(Clone, Default)]
    struct Ear(Arc<Mutex<Vec<u8>>>);

    impl Write for Ear {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn answer_to(line: &str) -> String {
        let ear = Ear::default();
        let voice = Voice::new(ear.clone());
        let agent = Agent {
            commands: Commands::new(voice.clone()),
            voice,
            off: Off::Power,
        };
        agent.hear(line);
        let said = ear.0.lock().unwrap().clone();
        String::from_utf8(said).unwrap()
    }

    #[test]
    fn a_greeting_is_returned_with_the_version() {
        assert_eq!(answer_to("12 hello"), format!("12 hello {VERSION}\n"));
    }

    #[test]
    fn an_unknown_request_is_refused_and_noise_is_ignored() {
        assert_eq!(answer_to("3 dance"), "3 failed unknown request \"dance\"\n");
        for noise in ["", "half a li", "4 kill", "4 in aGk=", "4 credit 9"] {
            let expected = "";
            assert_eq!(answer_to(noise), expected, "{noise:?}");
        }
    }
}
