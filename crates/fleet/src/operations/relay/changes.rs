//! What changes something on a host is passed on and, once the host has done it, written into the
//! audit trail.

use hostler_operations::{Call, internal};
use serde_json::Value;

use super::{
    DeleteImage, DeleteKernel, ForHost, ImportImage, ImportKernel, PullImages, RelayError, relay,
};
use crate::clock;
use crate::connector::OrHost;
use crate::fleet::Fleet;
use crate::store::audit::{self, Actor};
use crate::store::{self, StoreError};

/// An input that changes something on a host.
pub(super) trait Change: ForHost {
    /// What the audit trail calls it.
    const ACTION: &'static str;

    /// What is changed on the host, when it has a name.
    fn name(&self) -> Option<&str>;
}

macro_rules! changes {
    ($($input:ident is $action:literal, $name:expr;)*) => {
        $(impl Change for $input {
            const ACTION: &'static str = $action;

            fn name(&self) -> Option<&str> {
                let name: fn(&Self) -> Option<&str> = $name;
                name(self)
            }
        })*
    };
}

changes! {
    PullImages is "image.pull", |_| None;
    ImportImage is "image.import", |input| Some(&input.name);
    DeleteImage is "image.delete", |input| Some(&input.name);
    ImportKernel is "kernel.import", |input| Some(&input.name);
    DeleteKernel is "kernel.delete", |input| Some(&input.name);
}

/// Has the host do it: `mutation("pull", change::<PullImages>)`.
pub(super) async fn change<I: Change>(
    fleet: &Fleet,
    call: Call,
    input: I,
) -> Result<Value, OrHost<RelayError>> {
    let object = match input.name() {
        Some(name) => format!("{} {name}", input.host()),
        None => input.host().to_string(),
    };
    let answer = relay(fleet, call.clone(), input).await?;
    // It is done: that nothing was changed, as a failing database says elsewhere, would be wrong.
    let noted = note(fleet, &call, I::ACTION, &object).await;
    noted.map_err(|error| OrHost::Own(internal(error).into()))?;
    Ok(answer)
}

async fn note(fleet: &Fleet, call: &Call, action: &str, object: &str) -> Result<(), StoreError> {
    let mut tx = fleet.store.begin().await?;
    audit::record(&mut tx, &Actor::of(call, clock::now()), action, object).await?;
    store::commit(tx).await
}
