//! `hostler login` and `hostler logout`: saves where the control plane is and a token for it, once they
//! are known to work, and forgets the token again.

use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::user::PasswordFile;
use crate::client::{Api, Connect, Known, Place, config_path, forget_token};
use crate::failure::{Doing, Failure};
use crate::output::{self, cell, moment};
use crate::password;

#[derive(Args)]
pub(crate) struct Login {
    /// Who you are; your password is asked for [default: the API key in HOSTLER_TOKEN is saved]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// For which team, by its name or id [default: the only one, or the platform]
    #[arg(long, requires = "user")]
    team: Option<String>,
    #[command(flatten)]
    password: PasswordFile,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Args)]
pub(crate) struct Logout {
    #[command(flatten)]
    connect: Connect,
}

pub(crate) async fn run(login: Login) -> Result<(), Failure> {
    let mut connect = login.connect;
    if let Some(ca) = connect.ca.take() {
        // Saved for commands that run in other directories.
        let absolute = ca
            .canonicalize()
            .doing(|| format!("cannot read {}", ca.display()))?;
        connect.ca = Some(absolute);
    }
    match login.user {
        Some(user) => {
            let file = login.password.password_file;
            with_password(&connect, user, login.team, file.as_ref()).await
        }
        None => with_key(&connect).await,
    }
}

async fn with_password(
    connect: &Connect,
    user: String,
    team: Option<String>,
    file: Option<&std::path::PathBuf>,
) -> Result<(), Failure> {
    let place = Place::find(connect)?;
    let api = Api::stranger(&place)?;
    let password = password::read(file, &format!("password for {user}: "))?;
    let mut body = json!({ "name": user, "password": password.expose_secret() });
    if let Some(team) = team {
        body["team"] = team.into();
    }
    let answer = api.post(&["v1", "login"]).body(body).send().await?;
    let token: SecretString = match answer["token"].as_str() {
        Some(token) => token.into(),
        None => {
            return Err(Failure::new(
                "the answer has no token; is --server a control plane?",
            ));
        }
    };
    let path = config_path()?;
    let (server, ca) = (place.server, place.ca);
    Known { server, token, ca }.save(&path)?;
    output::progress(format!(
        "{user}, {}, until {}; saved to {}",
        at_work(&answer),
        moment(&answer, "expires_at"),
        path.display()
    ));
    if std::env::var_os("HOSTLER_TOKEN").is_some_and(|token| !token.is_empty()) {
        output::progress("HOSTLER_TOKEN is set and goes before the login; unset it");
    }
    Ok(())
}

/// For whom somebody works who has logged in.
fn at_work(answer: &Value) -> String {
    let Some(id) = answer["team_id"].as_str() else {
        return match answer["user"]["is_admin"].as_bool() {
            Some(true) => "for the platform".to_owned(),
            _ => "in no team yet".to_owned(),
        };
    };
    let mut teams = answer["teams"].as_array().into_iter().flatten();
    match teams.find(|team| team["team_id"] == id) {
        Some(team) => format!("{} of {}", cell(team, "role"), cell(team, "name")),
        None => format!("for {id}"),
    }
}

async fn with_key(connect: &Connect) -> Result<(), Failure> {
    let known = Known::find(connect)?;
    let path = config_path()?;
    let copy = Known {
        server: known.server.clone(),
        token: known.token.clone(),
        ca: known.ca.clone(),
    };
    Api::new(copy)?.get(&["v1", "status"]).send().await?;
    known.save(&path)?;
    output::progress(format!("saved to {}", path.display()));
    Ok(())
}

/// Ends the user's tokens, and forgets the saved one. A key that was saved stays good, here it is only
/// forgotten.
pub(crate) async fn out(logout: Logout) -> Result<(), Failure> {
    let path = config_path()?;
    let place = Place::find(&logout.connect)?;
    let Some(token) = place.saved_token else {
        output::progress("nobody is logged in");
        return Ok(());
    };
    let is_key = token.expose_secret().starts_with("hst_");
    let (server, ca) = (place.server, place.ca);
    let api = Api::new(Known { server, token, ca })?;
    let ended = match is_key {
        true => Ok(Value::Null),
        false => api.post(&["v1", "logout"]).send().await,
    };
    forget_token(&path)?;
    match ended {
        Ok(_) => output::progress("logged out"),
        Err(failure) => output::progress(format!(
            "the token is forgotten here, and still good until it expires: {failure}"
        )),
    }
    Ok(())
}
