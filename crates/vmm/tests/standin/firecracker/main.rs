//! A stand-in for Firecracker, for tests where the real one cannot run: as strict, with a guest
//! that is only played.
//!
//! It refuses what the real one refuses, in the same words as far as they are known (its sources
//! are named where they matter): unknown fields and paths, things said too late or too early, ids
//! that differ, a socket's path that exists. The machine behind it is no machine: [`guest`] looks
//! at what a guest would find (kernel, command line, initial RAM file system) and behaves as a guest
//! would that our program is in. What goes wrong on purpose is said in a file beside the program
//! ([`faults`]).

#![allow(
    clippy::print_stdout,
    reason = "the real one speaks on its console too"
)]

mod api;
mod arguments;
mod config;
mod faults;
mod guest;
mod http;
mod log;
mod vmm;

use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use arguments::{Arguments, Wanted};
use log::Log;
use vmm::Vmm;

/// The version that it claims to be.
pub(crate) const VERSION: &str = "1.13.1";

fn main() -> ExitCode {
    let arguments = match arguments::parse(std::env::args().skip(1)) {
        Ok(Wanted::Version) => {
            println!("Firecracker v{VERSION}\n");
            return ExitCode::SUCCESS;
        }
        Ok(Wanted::SnapshotVersion) => {
            println!("v{}", config::SNAPSHOT_VERSION);
            return ExitCode::SUCCESS;
        }
        Ok(Wanted::Run(arguments)) => arguments,
        Err(problem) => {
            println!("Arguments parsing error: {problem} \n\nFor more information try --help.");
            return ExitCode::from(153);
        }
    };
    run(arguments)
}

fn run(arguments: Arguments) -> ExitCode {
    let log = match Log::open(arguments.log_path.as_deref()) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("Error: Could not initialize logger: {error}");
            return ExitCode::from(152);
        }
    };
    log.line("Running Firecracker v1.13.1");
    if let Some(code) = faults::exit_code() {
        log.line(&format!("Firecracker exiting with error. exit_code={code}"));
        return ExitCode::from(code);
    }
    // The path is not removed at the end, and one that is there is not taken over.
    let listener = match UnixListener::bind(&arguments.api_sock) {
        Ok(listener) => listener,
        Err(error) => {
            let problem = format!(
                "Error: RunWithApi(FailedToBindSocket({:?}: {error}))",
                arguments.api_sock
            );
            eprintln!("{problem}");
            log.line(&problem);
            log.line("Firecracker exiting with error. exit_code=1");
            return ExitCode::from(1);
        }
    };
    let vmm = Arc::new(Vmm::new(arguments.id, log));
    for stream in listener.incoming().flatten() {
        let vmm = Arc::clone(&vmm);
        thread::spawn(move || http::serve(stream, &vmm));
    }
    ExitCode::SUCCESS
}
