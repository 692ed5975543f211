//! The guest that is played: what a kernel with our program would do, as seen from outside.
//!
//! It comes up only from what a real one would come up from: an ELF kernel for x86-64, a command
//! line that names our program as the first process, an initial RAM file system that has it, and
//! the modules for a vsock. Its way off is a reset; a guest that only switched itself off would
//! stay, as it does on the real one.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::faults;
use crate::log::Log;

/// The port that our program listens on.
const PORT: u32 = 1024;

/// How long the kernel takes until our program runs.
const BOOT: Duration = Duration::from_millis(50);

/// How often the guest looks whether it shall end itself.
const ROUND: Duration = Duration::from_millis(20);

/// What runs as soon as the machine does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kernel {
    /// Instructions that reset the machine at once.
    Resets,
    /// An operating system.
    Boots,
}

/// What is in the guest's memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Memory {
    kernel: Kernel,
    /// None: the kernel finds nothing to run, and panics.
    hostname: Option<String>,
    has_vsock: bool,
    /// Whether a panic resets the machine.
    resets_on_panic: bool,
    is_up: bool,
}

impl Memory {
    /// What a kernel finds.
    pub(crate) fn at_boot(
        kernel: Kernel,
        arguments: &str,
        initrd: Option<&[u8]>,
        has_disk: bool,
    ) -> Self {
        let has = |wanted: &str| arguments.split(' ').any(|argument| argument == wanted);
        let files = initrd.map(archived_files).unwrap_or_default();
        let file = |name: &str| files.get(name).map(|bytes| String::from_utf8_lossy(bytes));
        let finds_init = has("rdinit=/init") && files.contains_key("init") && has_disk;
        let modules = file("config/modules").unwrap_or_default();
        let built_in = modules.trim().is_empty();
        let hostname = file("config/hostname")
            .unwrap_or_default()
            .trim()
            .to_owned();
        let finds_init = finds_init && !faults::has("guest-panics");
        Self {
            kernel,
            hostname: finds_init.then_some(hostname),
            has_vsock: built_in || modules.contains("vmw_vsock_virtio_transport.ko"),
            resets_on_panic: has("panic=-1") && has("reboot=k"),
            is_up: false,
        }
    }
}

/// Reads as much of a kernel as a loader does.
pub(crate) fn load_kernel(path: &Path) -> Result<Kernel, String> {
    let file = fs::read(path).map_err(|error| error.to_string())?;
    let failed = "failed to load ELF kernel image".to_owned();
    let number = |at: usize, width: usize| {
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(file.get(at..at.checked_add(width)?)?);
        Some(u64::from_le_bytes(bytes))
    };
    let is_elf = file.starts_with(b"\x7fELF\x02\x01") && number(18, 2) == Some(62);
    if !is_elf {
        return Err(failed);
    }
    let code = || {
        let (entry, table, count) = (number(24, 8)?, number(32, 8)?, number(56, 2)?);
        (0..count).find_map(|index| {
            let header = usize::try_from(table).ok()? + 56 * usize::try_from(index).ok()?;
            let (kind, offset) = (number(header, 4)?, number(header + 8, 8)?);
            let (address, size) = (number(header + 24, 8)?, number(header + 32, 8)?);
            let inside = kind == 1 && (address..address.checked_add(size)?).contains(&entry);
            let start = usize::try_from(offset + entry.checked_sub(address)?).ok()?;
            inside.then(|| file.get(start..)).flatten()
        })
    };
    // `mov al, 0xfe; out 0x64, al`: a reset by the keyboard controller.
    Ok(match code() {
        Some([0xb0, 0xfe, 0xe6, 0x64, ..]) => Kernel::Resets,
        _ => Kernel::Boots,
    })
}

/// The files of cpio archives that follow each other (Linux's
/// `Documentation/driver-api/early-userspace/buffer-format.rst`).
fn archived_files(mut bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    while let Some(start) = bytes.iter().position(|byte| *byte != 0) {
        bytes = &bytes[start..];
        let Some((name, content, rest)) = archived_file(bytes) else {
            break;
        };
        files.insert(name, content.to_vec());
        bytes = rest;
    }
    files
}

fn archived_file(bytes: &[u8]) -> Option<(String, &[u8], &[u8])> {
    const HEADER: usize = 110;
    if !bytes.starts_with(b"070701") {
        return None;
    }
    let field = |index: usize| {
        let text = bytes.get(6 + 8 * index..14 + 8 * index)?;
        usize::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
    };
    let (size, name_size) = (field(6)?, field(11)?);
    let name = bytes.get(HEADER..HEADER + name_size.checked_sub(1)?)?;
    let start = (HEADER + name_size).next_multiple_of(4);
    let content = bytes.get(start..start.checked_add(size)?)?;
    let end = (start + size).next_multiple_of(4).min(bytes.len());
    Some((
        String::from_utf8_lossy(name).into_owned(),
        content,
        &bytes[end..],
    ))
}

/// A guest that runs.
pub(crate) struct Guest {
    log: Arc<Log>,
    memory: Mutex<Memory>,
    paused: Mutex<bool>,
    resumed: Condvar,
}

impl Guest {
    /// Boots.
    pub(crate) fn run(memory: Memory, log: Arc<Log>, vsock: Option<UnixListener>) -> Arc<Self> {
        let guest = Self::new(memory, log);
        let booting = Arc::clone(&guest);
        thread::spawn(move || booting.boot());
        guest.listen(vsock);
        guest
    }

    /// Goes on where a snapshot was made. Connections of that time are gone.
    pub(crate) fn go_on(memory: Memory, log: Arc<Log>, vsock: Option<UnixListener>) -> Arc<Self> {
        let guest = Self::new(memory, log);
        if !lock(&guest.memory).is_up {
            let booting = Arc::clone(&guest);
            thread::spawn(move || booting.boot());
        }
        guest.listen(vsock);
        guest
    }

    fn new(memory: Memory, log: Arc<Log>) -> Arc<Self> {
        Arc::new(Self {
            log,
            memory: Mutex::new(memory),
            paused: Mutex::new(false),
            resumed: Condvar::new(),
        })
    }

    pub(crate) fn memory(&self) -> Memory {
        lock(&self.memory).clone()
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        *lock(&self.paused) = paused;
        self.resumed.notify_all();
    }

    /// Processors that stand still do nothing.
    fn while_running(&self) {
        let paused = lock(&self.paused);
        let running = self.resumed.wait_while(paused, |paused| *paused);
        drop(running.unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn ctrl_alt_del(&self) {
        if lock(&self.memory).is_up {
            self.reset();
        }
    }

    fn boot(&self) {
        let memory = self.memory();
        if memory.kernel == Kernel::Resets {
            self.reset();
        }
        say("[    0.000000] Linux version 6.1.0-standin");
        thread::sleep(BOOT);
        self.while_running();
        let Some(hostname) = &memory.hostname else {
            say("[    0.050000] Kernel panic - not syncing: No working init found.");
            if memory.resets_on_panic {
                self.reset();
            }
            return;
        };
        say(&format!("hostler-guest: {hostname} is up"));
        if faults::has("guest-floods") {
            thread::spawn(|| {
                loop {
                    say(&"flood ".repeat(600));
                    thread::sleep(Duration::from_millis(1));
                }
            });
        }
        lock(&self.memory).is_up = memory.has_vsock && !faults::has("guest-silent");
        while !faults::has("guest-quits") {
            thread::sleep(ROUND);
        }
        self.reset();
    }

    fn reset(&self) -> ! {
        end(&self.log, 0)
    }

    /// Takes connections for the guest's ports.
    fn listen(self: &Arc<Self>, vsock: Option<UnixListener>) {
        let Some(listener) = vsock else { return };
        let guest = Arc::clone(self);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let guest = Arc::clone(&guest);
                thread::spawn(move || drop(guest.converse(stream)));
            }
        });
    }

    /// Leads a connection to the port that it asks for, or hangs up.
    fn converse(&self, stream: UnixStream) -> io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut writer = stream;
        let mut asked = Vec::new();
        (&mut reader).take(32).read_until(b'\n', &mut asked)?;
        let asked = String::from_utf8_lossy(&asked).into_owned();
        let port = asked
            .strip_prefix("CONNECT ")
            .and_then(|port| port.strip_suffix('\n')?.parse::<u32>().ok());
        self.while_running();
        if port != Some(PORT) || !lock(&self.memory).is_up {
            return Ok(());
        }
        writer.write_all(format!("OK {}\n", 1 << 30).as_bytes())?;
        for line in reader.lines() {
            let line = line?;
            self.while_running();
            self.answer(&line, &mut writer)?;
        }
        Ok(())
    }

    /// Answers a line as the first version of our program did: greetings, and the end.
    fn answer(&self, line: &str, writer: &mut UnixStream) -> io::Result<()> {
        let Some((id, request)) = line.split_once(' ') else {
            return Ok(());
        };
        if id.parse::<u64>().is_err() {
            return Ok(());
        }
        match request.split_once(' ').unwrap_or((request, "")) {
            ("hello", "") => writeln!(writer, "{id} hello 1"),
            ("poweroff", grace) if grace.parse::<u32>().is_ok() => {
                writeln!(writer, "{id} done")?;
                say("reboot: Restarting system");
                self.reset()
            }
            _ => writeln!(writer, "{id} failed unknown request {request:?}"),
        }
    }
}

/// Says a line on the console.
fn say(line: &str) {
    let mut console = io::stdout().lock();
    let _ = console.write_all(format!("{line}\r\n").as_bytes());
    let _ = console.flush();
}

/// Ends the process, and says so in the log.
pub(crate) fn end(log: &Log, code: i32) -> ! {
    match code {
        0 => log.line("Firecracker exiting successfully. exit_code=0"),
        code => log.line(&format!("Firecracker exiting with error. exit_code={code}")),
    }
    std::process::exit(code)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
