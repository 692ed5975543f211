//! nginx, which answers `ok` and does nothing else.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::cpu;

/// nginx as one process, tuned to do nothing but what is measured.
pub(crate) struct Nginx {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Nginx {
    /// With `chain.pem` and `key.pem` of this directory, and these further directives.
    pub(crate) fn start(at: &Path, further: &str) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("its address");
        drop(free);
        let configuration = at.join("nginx.conf");
        fs::write(&configuration, nginx_conf(at, address, further)).expect("written");
        let child = cpu::on_the_servers_core(nginx())
            .arg("-p")
            .arg(at)
            .args(["-e", "stderr", "-c"])
            .arg(&configuration)
            .stdin(Stdio::null())
            .spawn()
            .expect("it starts");
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "nginx does not listen"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, address }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

fn nginx() -> PathBuf {
    let at = |place: &str| Path::new(place).join("nginx");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut places = path.split(':').chain(["/usr/sbin"]);
    let found = places.find(|place| at(place).is_file());
    at(found.expect("there is no nginx: run ./bench, which fetches it"))
}

fn nginx_conf(at: &Path, address: SocketAddr, further: &str) -> String {
    let at = at.display();
    format!(
        "daemon off; master_process off; pid {at}/nginx.pid;
        events {{ worker_connections 4096; }}
        http {{
            access_log off; default_type text/plain; tcp_nodelay on;
            keepalive_requests 1000000000; keepalive_time 1d;
            client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;
            fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
            server {{
                listen {address} ssl http2 backlog=1024;
                ssl_protocols TLSv1.3; ssl_session_tickets off; ssl_session_cache off;
                ssl_certificate {at}/chain.pem; ssl_certificate_key {at}/key.pem;
                {further}
                location / {{ return 200 'ok'; }}
            }}
        }}"
    )
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
