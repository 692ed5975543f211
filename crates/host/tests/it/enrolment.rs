//! Becoming a host.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use hostler_host::agent::{Agent, EnrollError, ServerTrust, StartError};
use rcgen::SanType;
use tempfile::tempdir;
use time::OffsetDateTime;

use crate::certs::Ca;
use crate::control_plane::{ControlPlane, HOST_ID, Heard, TOKEN};
use crate::support::host;

async fn refused(plane: &ControlPlane, trust: ServerTrust) -> EnrollError {
    let data = tempdir().unwrap();
    let mut config = plane.registering(data.path());
    config.server_trust = trust;
    let started = Agent::start(config, host(data.path()).await).await;
    let unused = plane.count(|heard| matches!(heard, Heard::Registration(_))) == 0;
    assert!(
        unused,
        "the token was shown to a server that is not trusted"
    );
    match started {
        Err(StartError::Enroll(error)) => error,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("enrolled"),
    }
}

#[tokio::test]
async fn a_machine_enrols_once_and_resumes_afterwards() {
    let plane = ControlPlane::start().await;
    let data = tempdir().unwrap();
    let host = host(data.path()).await;
    let agent = Agent::start(plane.registering(data.path()), host.clone())
        .await
        .unwrap();
    assert_eq!(agent.host_id(), HOST_ID);
    let id = agent.source().id().unwrap();
    assert_eq!(id.path(), format!("/host/{HOST_ID}"));

    let Heard::Registration(told) = plane.desk().heard[0].clone() else {
        panic!("it began with something else than a registration")
    };
    assert_eq!(told["address"], "127.0.0.1:9443");
    assert_eq!(told["arch"], std::env::consts::ARCH);
    let size = host.machines().status().await.unwrap().total;
    assert_eq!(told["cpu_cores"], size.cpus);
    assert_eq!(told["memory_mb"], size.memory_mb);
    assert_eq!(told["disk_gb"], size.disk_mb / 1024);
    assert!(
        !told.to_string().contains("PRIVATE KEY"),
        "the key left the machine"
    );

    let file = data.path().join("agent/credentials.json");
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    drop(agent);
    let again = Agent::start(plane.config(data.path()), host.clone())
        .await
        .unwrap();
    assert_eq!(again.source().id().unwrap(), id);
    drop(again);
    // The command line of the first start, run again.
    let again = Agent::start(plane.registering(data.path()), host)
        .await
        .unwrap();
    assert_eq!(again.host_id(), HOST_ID);
    assert_eq!(
        plane.count(|heard| matches!(heard, Heard::Registration(_))),
        1
    );
}

#[tokio::test]
async fn another_token_does_not_replace_an_enrolment() {
    let plane = ControlPlane::start().await;
    let data = tempdir().unwrap();
    let host = host(data.path()).await;
    drop(
        Agent::start(plane.registering(data.path()), host.clone())
            .await
            .unwrap(),
    );
    let mut config = plane.config(data.path());
    config.register = Some("another token".into());
    let error = Agent::start(config, host).await.err().unwrap();
    let text = error.to_string();
    assert!(
        matches!(error, StartError::AlreadyEnrolled { .. }),
        "{text}"
    );
    assert!(
        text.contains("credentials.json") && text.contains(HOST_ID),
        "{text}"
    );
}

#[tokio::test]
async fn without_credentials_and_token_it_says_how_to_get_one() {
    let plane = ControlPlane::start().await;
    let data = tempdir().unwrap();
    let error = Agent::start(plane.config(data.path()), host(data.path()).await).await;
    let error = error.err().unwrap().to_string();
    assert!(error.contains("--register"), "{error}");
}

#[tokio::test]
async fn a_wrong_token_is_refused_and_leaves_no_credentials() {
    let plane = ControlPlane::start().await;
    let data = tempdir().unwrap();
    let mut config = plane.config(data.path());
    config.register = Some("a wrong token".into());
    let error = Agent::start(config, host(data.path()).await)
        .await
        .err()
        .unwrap();
    assert!(
        matches!(error, StartError::Enroll(EnrollError::Token { .. })),
        "{error}"
    );
    assert!(!error.to_string().contains("a wrong token"), "{error}");
    assert_eq!(fs::read_dir(data.path().join("agent")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_used_token_is_refused() {
    let plane = ControlPlane::start().await;
    let (first, second) = (tempdir().unwrap(), tempdir().unwrap());
    Agent::start(plane.registering(first.path()), host(first.path()).await)
        .await
        .unwrap();
    let again = Agent::start(plane.registering(second.path()), host(second.path()).await).await;
    assert!(matches!(
        again,
        Err(StartError::Enroll(EnrollError::Token { .. }))
    ));
}

#[tokio::test]
async fn the_server_is_recognised_by_a_ca_file_its_own_pin_or_its_authoritys() {
    let ca_file = tempdir().unwrap().keep().join("ca.pem");
    for way in 0..3 {
        let plane = ControlPlane::start().await;
        let trust = match way {
            0 => {
                fs::write(&ca_file, &plane.door_ca.pem).unwrap();
                ServerTrust::CaFile(ca_file.clone())
            }
            1 => ServerTrust::Pin(plane.leaf_pin()),
            _ => ServerTrust::Pin(plane.ca_pin()),
        };
        let data = tempdir().unwrap();
        let mut config = plane.registering(data.path());
        config.server_trust = trust;
        let agent = Agent::start(config, host(data.path()).await).await;
        assert_eq!(agent.unwrap().host_id(), HOST_ID, "way {way}");
    }
    fs::remove_dir_all(ca_file.parent().unwrap()).unwrap();
}

#[tokio::test]
async fn a_server_of_another_ca_never_sees_the_token() {
    let plane = ControlPlane::start().await;
    let error = refused(&plane, ServerTrust::CaPem(Ca::of_doors().pem)).await;
    assert!(
        matches!(error, EnrollError::UnknownAuthority { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_with_another_key_than_the_pinned_never_sees_the_token() {
    let plane = ControlPlane::start().await;
    let pin = format!("sha256:{}", "00".repeat(32)).parse().unwrap();
    let error = refused(&plane, ServerTrust::Pin(pin)).await;
    assert!(matches!(error, EnrollError::WrongPin(_)), "{error}");
    assert!(
        error.to_string().contains(&plane.leaf_pin().to_string()),
        "{error}"
    );
}

#[tokio::test]
async fn a_pinned_authority_vouches_for_names_of_its_choice_only() {
    let name = SanType::DnsName("elsewhere.example".try_into().unwrap());
    let plane = ControlPlane::start_as(name, OffsetDateTime::now_utc()).await;
    for trust in [
        ServerTrust::Pin(plane.ca_pin()),
        ServerTrust::CaPem(plane.door_ca.pem.clone()),
    ] {
        let error = refused(&plane, trust).await;
        assert!(matches!(error, EnrollError::WrongName { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_wrong_clock_is_called_a_wrong_clock() {
    let tomorrow = OffsetDateTime::now_utc() + Duration::from_secs(86_400);
    let address = SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
    let plane = ControlPlane::start_as(address, tomorrow).await;
    let error = refused(&plane, ServerTrust::CaPem(plane.door_ca.pem.clone())).await;
    assert!(matches!(error, EnrollError::Clock { .. }), "{error}");
    assert!(error.to_string().contains("clock"), "{error}");
}

#[tokio::test]
async fn an_absent_server_is_named() {
    let mut plane = ControlPlane::start().await;
    plane.close().await;
    let error = refused(&plane, ServerTrust::CaPem(plane.door_ca.pem.clone())).await;
    assert!(matches!(error, EnrollError::Unreachable(_)), "{error}");
    assert!(error.to_string().contains("127.0.0.1:"), "{error}");
}

#[tokio::test]
async fn an_unwritable_data_directory_does_not_cost_the_token() {
    let plane = ControlPlane::start().await;
    let data = tempdir().unwrap();
    let host = host(data.path()).await;
    fs::write(data.path().join("agent"), "in the way").unwrap();
    let error = Agent::start(plane.registering(data.path()), host)
        .await
        .err()
        .unwrap();
    assert!(matches!(error, StartError::Store(_)), "{error}");
    assert_eq!(
        plane.count(|heard| matches!(heard, Heard::Registration(_))),
        0
    );
    assert!(!TOKEN.is_empty() && !error.to_string().contains(TOKEN));
}
