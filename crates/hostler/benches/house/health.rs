//! How long `/v1/health` takes while ten images are imported.

use crate::host::{Host, millis, percentile, tarball};
use crate::table::Table;

const IMPORTS: usize = 10;
const MIB: usize = 64;

pub(crate) fn measure(table: &mut Table) {
    let host = Host::start();
    let source = tarball(host.path(), MIB);
    let source = source.to_str().expect("text");
    let request = |number| {
        let body = format!(r#"{{"source":"{source}","name":"image-{number}"}}"#);
        ("/v1/images/import".to_owned(), body)
    };
    let imports = host.post_all((0..IMPORTS).map(request).collect());
    let mut times = Vec::new();
    while imports.iter().any(|import| !import.is_finished()) {
        times.push(millis(|| host.get("/v1/health")).0);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    for import in imports {
        host.wait(import);
    }
    let asked = times.len();
    table.row(
        &format!(
            "/v1/health while {IMPORTS} imports of {MIB} MiB run, 99th percentile of {asked} (median)"
        ),
        format!("{:.1} ms", percentile(&mut times, 99)),
        format!("{:.1} ms", percentile(&mut times, 50)),
        "-",
        "under 10 ms",
    );
}
