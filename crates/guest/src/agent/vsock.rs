//! The way to the host where it is a vsock, as with Firecracker: the host dials, as often as it
//! likes.

use std::io::{self, Read};
use std::thread;

use vsock::{VMADDR_CID_ANY, VsockListener, VsockStream};

use super::{Agent, Commands, Voice};
use crate::lines::Lines;
use crate::protocol::VSOCK_PORT;
use crate::shutdown::Off;

/// Answers whoever dials until the guest ends.
pub(super) fn serve() -> io::Result<()> {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, VSOCK_PORT)?;
    loop {
        // A conversation that was cut off without a word (by a snapshot, say) may still be waited
        // on when the next begins.
        let (stream, _) = listener.accept()?;
        thread::spawn(move || {
            if let Err(error) = converse(stream) {
                eprintln!("hostler-guest: a conversation with the host broke: {error}");
            }
        });
    }
}

fn converse(mut stream: VsockStream) -> io::Result<()> {
    let voice = Voice::new(stream.try_clone()?);
    let agent = Agent {
        commands: Commands::new(voice.clone()),
        voice,
        // A machine that is reached like this has no power switch: its end is a reset.
        off: Off::Reset,
    };
    let mut lines = Lines::default();
    let mut chunk = vec![0; 16 * 1024];
    let ended = loop {
        match stream.read(&mut chunk) {
            Ok(0) => break Ok(()),
            Ok(length) => lines.push(&chunk[..length], |line| {
                agent.hear(&String::from_utf8_lossy(line));
            }),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    agent.commands.end_all();
    ended
}
