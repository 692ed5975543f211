//! Calls exactly the service that its configuration names, whatever the name in the URL.
//!
//! ```text
//! mtls-client CONFIG URL...
//! ```

use std::error::Error;
use std::io::IsTerminal;
use std::process::ExitCode;

use hostler_identity::config::Config;

#[expect(clippy::print_stdout, reason = "the answer is the result")]
async fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [config, urls @ ..] = arguments else {
        return Err("usage: mtls-client CONFIG URL...".into());
    };
    let (_source, client) = Config::load(Some(config.as_ref()))?.client().await?;
    for url in urls {
        // Every status is an answer; an error means that there was none.
        let answer = client.get(url).await?;
        println!(
            "{} {}",
            answer.status().as_u16(),
            String::from_utf8_lossy(answer.body()).trim_end()
        );
    }
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    match run(&std::env::args().skip(1).collect::<Vec<_>>()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
