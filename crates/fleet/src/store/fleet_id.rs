//! What these books are called where several fleets share something.

use super::{Db, StoreError, query};

/// The name of these books; they get one when they have none.
pub(crate) async fn get(db: &mut Db) -> Result<String, StoreError> {
    let found: Option<(String,)> = query("SELECT id FROM fleet_id").fetch_optional(db).await?;
    if let Some((id,)) = found {
        return Ok(id);
    }
    let id = uuid::Uuid::now_v7().simple().to_string();
    query("INSERT INTO fleet_id (id) VALUES ($1)")
        .bind(&id)
        .execute(db)
        .await?;
    Ok(id)
}
