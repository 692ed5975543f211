//! The agent: answers the host over a virtio serial port, one line at a time.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::error::{Context, Result};
use crate::protocol::{Line, PORT_NAME, Reply, Request, VERSION};
use crate::shutdown;

/// How often to look again while no host listens: reads end at once then.
const RETRY: Duration = Duration::from_millis(50);

/// A line longer than this is no request; what came of it is dropped.
const MAX_LINE: usize = 64 * 1024;

/// Answers until the guest ends.
pub(crate) fn run() -> Result<()> {
    // A VM without such a port has a host that does not want to talk.
    let Some(path) = find_port(Path::new("/sys/class/virtio-ports")) else {
        return Ok(());
    };
    let mut port = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .context(|| format!("open {}", path.display()))?;
    serve(&mut port).context(|| format!("talk to the host through {}", path.display()))
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

fn serve(port: &mut File) -> io::Result<()> {
    let mut buffer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match port.read(&mut chunk) {
            Ok(0) => thread::sleep(RETRY),
            Ok(length) => buffer.extend(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        while let Some(end) = buffer.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            answer(&String::from_utf8_lossy(&line), port)?;
        }
        if buffer.len() > MAX_LINE {
            buffer.clear();
        }
    }
}

fn answer(line: &str, port: &mut impl Write) -> io::Result<()> {
    let mut reply = |id, body| writeln!(port, "{}", Line { id, body });
    match line.parse() {
        Ok(Line {
            id,
            body: Request::Hello,
        }) => reply(id, Reply::Hello { version: VERSION }),
        Ok(Line {
            id,
            body: Request::PowerOff { grace_ms },
        }) => {
            reply(id, Reply::Done)?;
            shutdown::power_off(Duration::from_millis(grace_ms.into()))
        }
        Err(unknown) => match unknown.id {
            Some(id) => {
                let reason = format!("unknown request {:?}", unknown.text);
                reply(id, Reply::Failed { reason })
            }
            // A new host begins with an empty line, to end what another may have left half said.
            None => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer_to(line: &str) -> String {
        let mut port = Vec::new();
        answer(line, &mut port).unwrap();
        String::from_utf8(port).unwrap()
    }

    #[test]
    fn a_greeting_is_returned_with_the_version() {
        assert_eq!(answer_to("12 hello\n"), "12 hello 1\n");
    }

    #[test]
    fn an_unknown_request_is_refused_and_noise_is_ignored() {
        assert_eq!(
            answer_to("3 dance\n"),
            "3 failed unknown request \"dance\"\n"
        );
        assert_eq!(answer_to("\n"), "");
        assert_eq!(answer_to("half a li\n"), "");
    }
}
