//! `hostler user`: who may log in.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::{Column, Common, show, show_fields};
use crate::client::Api;
use crate::failure::Failure;
use crate::output::{self, cell, moment};
use crate::password;

#[derive(Subcommand)]
pub(crate) enum User {
    /// Make a user; their first password is asked for
    #[command(
        after_help = "Examples:\n  hostler user create ada --admin\n  pass show hostler/eve | \
                            hostler user create eve --password-file -"
    )]
    Create {
        /// The name by which they log in
        name: String,
        /// They run the platform, and may do everything
        #[arg(long)]
        admin: bool,
        #[command(flatten)]
        password: PasswordFile,
        #[command(flatten)]
        common: Common,
    },
    /// List the users
    #[command(after_help = "Example:\n  hostler user list")]
    List(Common),
    /// Show a user and their teams
    #[command(after_help = "Example:\n  hostler user show ada")]
    Show(One),
    /// Show who you are, for whom you work, and what you may do
    #[command(after_help = "Example:\n  hostler user me")]
    Me(Common),
    /// Delete a user, and with them their tokens and API keys
    #[command(after_help = "Example:\n  hostler user delete ada")]
    Delete(One),
    /// Set a user's password, or change your own; their tokens end
    #[command(
        after_help = "Examples:\n  hostler user set-password          (your own)\n  hostler user \
                            set-password eve"
    )]
    SetPassword {
        /// The user's name or id [default: you]
        user: Option<String>,
        /// The file with your present password, when you change your own
        #[arg(long, value_name = "FILE", conflicts_with = "user")]
        current_password_file: Option<PathBuf>,
        #[command(flatten)]
        password: PasswordFile,
        #[command(flatten)]
        common: Common,
    },
    /// Say whether a user runs the platform, and may do everything
    #[command(after_help = "Example:\n  hostler user set-admin ada true")]
    SetAdmin {
        /// The user's name or id
        user: String,
        /// Whether they do
        #[arg(action = clap::ArgAction::Set)]
        admin: bool,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Args)]
pub(crate) struct PasswordFile {
    /// The file with the password, - for the standard input [default: it is asked for]
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct One {
    /// The user's name or id
    user: String,
    #[command(flatten)]
    common: Common,
}

const COLUMNS: &[Column] = &[
    ("ID", |u| cell(u, "id")),
    ("NAME", |u| cell(u, "name")),
    ("ADMIN", |u| match u["is_admin"].as_bool() {
        Some(true) => "yes".to_owned(),
        _ => "-".to_owned(),
    }),
    ("CREATED", |u| moment(u, "created_at")),
];

const USERS: [&str; 2] = ["v1", "users"];

pub(crate) async fn run(user: User) -> Result<(), Failure> {
    match user {
        User::Create {
            name,
            admin,
            password,
            common,
        } => {
            let api = common.connect.open()?;
            let prompt = format!("a password for {name}: ");
            let password = password::read_new(password.password_file.as_ref(), &prompt)?;
            let body = json!({
                "name": name, "password": password.expose_secret(), "is_admin": admin,
            });
            show(
                common.printing,
                &api.post(&USERS).body(body).send().await?,
                COLUMNS,
            );
        }
        User::List(common) => {
            let api = common.connect.open()?;
            show(common.printing, &api.list(&USERS).await?, COLUMNS);
        }
        User::Show(One { user, common }) => {
            let api = common.connect.open()?;
            show_fields(
                common.printing,
                &api.get(&["v1", "users", &user]).send().await?,
            );
        }
        User::Me(common) => {
            let api = common.connect.open()?;
            show_fields(
                common.printing,
                &api.get(&["v1", "users", "me"]).send().await?,
            );
        }
        User::Delete(One { user, common }) => {
            let api = common.connect.open()?;
            api.delete(&["v1", "users", &user]).send().await?;
            output::progress(format!("deleted {user}"));
        }
        User::SetPassword {
            user,
            current_password_file,
            password,
            common,
        } => {
            let api = common.connect.open()?;
            let file = password.password_file.as_ref();
            match user {
                Some(user) => set(&api, &user, file).await?,
                None => change(&api, current_password_file.as_ref(), file).await?,
            }
        }
        User::SetAdmin {
            user,
            admin,
            common,
        } => {
            let api = common.connect.open()?;
            let ask = api.put(&["v1", "users", &user, "admin"]);
            let changed = ask.body(json!({ "is_admin": admin })).send().await?;
            show(common.printing, &changed, COLUMNS);
        }
    }
    Ok(())
}

async fn set(api: &Api, user: &str, file: Option<&PathBuf>) -> Result<(), Failure> {
    let new = password::read_new(file, &format!("a new password for {user}: "))?;
    let ask = api.put(&["v1", "users", user, "password"]);
    ask.body(json!({ "password": new.expose_secret() }))
        .send()
        .await?;
    output::progress(format!("{user} has another password and must log in again"));
    Ok(())
}

async fn change(
    api: &Api,
    current: Option<&PathBuf>,
    file: Option<&PathBuf>,
) -> Result<(), Failure> {
    let current = password::read(current, "your present password: ")?;
    let new = password::read_new(file, "the new one: ")?;
    let ask = api.put(&["v1", "users", "me", "password"]);
    ask.body(changing(&current, &new)).send().await?;
    output::progress("changed; log in again with `hostler login`");
    Ok(())
}

fn changing(current: &SecretString, new: &SecretString) -> Value {
    json!({ "current": current.expose_secret(), "new": new.expose_secret() })
}
