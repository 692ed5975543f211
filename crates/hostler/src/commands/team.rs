//! `hostler team`: who shares VMs, hosts and keys.

use clap::{Args, Subcommand};
use hostler_fleet::{Role, TeamId};
use serde_json::{Map, Value, json};

use super::{Column, Common, show, show_fields, words};
use crate::client::Api;
use crate::failure::Failure;
use crate::output::{self, cell, moment};

#[derive(Subcommand)]
pub(crate) enum Team {
    /// Make a team
    #[command(after_help = "Example:\n  hostler team create web --byoc")]
    Create {
        /// What it is called
        name: String,
        /// It may bring hosts of its own
        #[arg(long)]
        byoc: bool,
        #[command(flatten)]
        common: Common,
    },
    /// List the teams that you see
    #[command(after_help = "Example:\n  hostler team list")]
    List(Common),
    /// Show a team
    #[command(after_help = "Example:\n  hostler team show web")]
    Show(One),
    /// Rename a team, or say whether it may bring hosts of its own
    #[command(after_help = "Example:\n  hostler team update web --byoc true")]
    Update {
        #[command(flatten)]
        one: One,
        /// What it is to be called
        #[arg(long)]
        name: Option<String>,
        /// Whether it may bring hosts of its own
        #[arg(long)]
        byoc: Option<bool>,
    },
    /// Delete a team that has no hosts and no VMs, and with it its API keys
    #[command(after_help = "Example:\n  hostler team delete web")]
    Delete(One),
    /// Who is in a team
    #[command(subcommand)]
    Member(Member),
}

#[derive(Subcommand)]
pub(crate) enum Member {
    /// Put a user into a team
    #[command(after_help = "Example:\n  hostler team member add web ada --role owner")]
    Add {
        #[command(flatten)]
        of: Of,
        /// What they are in it
        #[arg(long, default_value = "member", value_parser = roles())]
        role: String,
    },
    /// List who is in a team
    #[command(after_help = "Example:\n  hostler team member list web")]
    List(One),
    /// Make a member something else
    #[command(after_help = "Example:\n  hostler team member set-role web ada admin")]
    SetRole {
        #[command(flatten)]
        of: Of,
        /// What they are from now on
        #[arg(value_parser = roles())]
        role: String,
    },
    /// Take a user out of a team, and delete their API keys for it
    #[command(after_help = "Example:\n  hostler team member remove web ada")]
    Remove(Of),
}

fn roles() -> clap::builder::PossibleValuesParser {
    words(Role::ALL.iter().map(|role| role.as_str()))
}

#[derive(Args)]
pub(crate) struct One {
    /// The team's name or id
    team: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub(crate) struct Of {
    /// The team's name or id
    team: String,
    /// The user's name or id
    user: String,
    #[command(flatten)]
    common: Common,
}

const COLUMNS: &[Column] = &[
    ("ID", |t| cell(t, "id")),
    ("NAME", |t| cell(t, "name")),
    ("BYOC", |t| match t["is_byoc"].as_bool() {
        Some(true) => "yes".to_owned(),
        _ => "-".to_owned(),
    }),
    ("CREATED", |t| moment(t, "created_at")),
];

const MEMBERS: &[Column] = &[
    ("USER", |m| cell(m, "name")),
    ("ROLE", |m| cell(m, "role")),
    ("SINCE", |m| moment(m, "created_at")),
    ("ID", |m| cell(m, "user_id")),
];

const TEAMS: [&str; 2] = ["v1", "teams"];

/// The id of a team that goes by its id or name.
pub(super) async fn id_of(api: &Api, team: String) -> Result<String, Failure> {
    if TeamId::is_one(&team) {
        return Ok(team);
    }
    let found = api.get(&["v1", "teams", &team]).send().await?;
    Ok(cell(&found, "id"))
}

pub(crate) async fn run(team: Team) -> Result<(), Failure> {
    match team {
        Team::Create { name, byoc, common } => {
            let api = common.connect.open()?;
            let body = json!({ "name": name, "is_byoc": byoc });
            show(
                common.printing,
                &api.post(&TEAMS).body(body).send().await?,
                COLUMNS,
            );
        }
        Team::List(common) => {
            let api = common.connect.open()?;
            show(common.printing, &api.list(&TEAMS).await?, COLUMNS);
        }
        Team::Show(One { team, common }) => {
            let api = common.connect.open()?;
            show_fields(
                common.printing,
                &api.get(&["v1", "teams", &team]).send().await?,
            );
        }
        Team::Update { one, name, byoc } => {
            let One { team, common } = one;
            let api = common.connect.open()?;
            let mut body = Map::new();
            if let Some(name) = name {
                body.insert("name".to_owned(), name.into());
            }
            if let Some(byoc) = byoc {
                body.insert("is_byoc".to_owned(), byoc.into());
            }
            let ask = api.patch(&["v1", "teams", &team]).body(Value::Object(body));
            show(common.printing, &ask.send().await?, COLUMNS);
        }
        Team::Delete(One { team, common }) => {
            let api = common.connect.open()?;
            api.delete(&["v1", "teams", &team]).send().await?;
            output::progress(format!("deleted {team}"));
        }
        Team::Member(member) => members(member).await?,
    }
    Ok(())
}

async fn members(member: Member) -> Result<(), Failure> {
    match member {
        Member::Add { of, role } => {
            let Of { team, user, common } = of;
            let api = common.connect.open()?;
            let ask = api.post(&["v1", "teams", &team, "members"]);
            let added = ask
                .body(json!({ "user": user, "role": role }))
                .send()
                .await?;
            show(common.printing, &added, MEMBERS);
        }
        Member::List(One { team, common }) => {
            let api = common.connect.open()?;
            let members = api.list(&["v1", "teams", &team, "members"]).await?;
            show(common.printing, &members, MEMBERS);
        }
        Member::SetRole { of, role } => {
            let Of { team, user, common } = of;
            let api = common.connect.open()?;
            let ask = api.put(&["v1", "teams", &team, "members", &user]);
            let changed = ask.body(json!({ "role": role })).send().await?;
            show(common.printing, &changed, MEMBERS);
        }
        Member::Remove(Of { team, user, common }) => {
            let api = common.connect.open()?;
            let ask = api.delete(&["v1", "teams", &team, "members", &user]);
            ask.send().await?;
            output::progress(format!("{user} is not in {team} any more"));
        }
    }
    Ok(())
}
