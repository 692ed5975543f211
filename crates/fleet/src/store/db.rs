//! One statement, either database.
//!
//! A statement is text that SQLite and PostgreSQL both know, with `$1` placeholders, and values of
//! three kinds: text, whole numbers, truth. [`query`] puts them together, and the connection that
//! it is run on decides which driver does so. A row is read by the same `FromRow` from both.

use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{FromRow, Postgres, SqlStr, Sqlite, Transaction};

use tokio::sync::watch;

use super::StoreError;

/// A connection, inside a transaction or not: what the statements run on.
pub(crate) struct Db {
    held: Held,
    /// Whether something was written of which watchers are told.
    news: bool,
    /// The revisions that this transaction has changed.
    bumped: Vec<&'static str>,
}

enum Held {
    Sqlite(PoolConnection<Sqlite>),
    SqliteTx(Transaction<'static, Sqlite>),
    Postgres(PoolConnection<Postgres>),
    PostgresTx(Transaction<'static, Postgres>),
}

enum Connection<'a> {
    Sqlite(&'a mut SqliteConnection),
    Postgres(&'a mut PgConnection),
}

impl Db {
    fn connection(&mut self) -> Connection<'_> {
        match &mut self.held {
            Held::Sqlite(db) => Connection::Sqlite(db),
            Held::SqliteTx(tx) => Connection::Sqlite(tx),
            Held::Postgres(db) => Connection::Postgres(db),
            Held::PostgresTx(tx) => Connection::Postgres(tx),
        }
    }

    /// Whether a revision has yet to be changed. Within a transaction once is enough, because all
    /// of it is seen at the same time.
    pub(super) fn is_to_be_bumped(&mut self, topic: &'static str) -> bool {
        let in_transaction = matches!(self.held, Held::SqliteTx(_) | Held::PostgresTx(_));
        if self.bumped.contains(&topic) {
            return false;
        }
        if in_transaction {
            self.bumped.push(topic);
        }
        true
    }

    /// Says that watchers have something to be told when this is committed.
    pub(super) fn has_news(&mut self) {
        self.news = true;
    }
}

impl From<Held> for Db {
    fn from(held: Held) -> Self {
        Self {
            held,
            news: false,
            bumped: Vec::new(),
        }
    }
}

impl From<PoolConnection<Sqlite>> for Db {
    fn from(connection: PoolConnection<Sqlite>) -> Self {
        Held::Sqlite(connection).into()
    }
}

impl From<PoolConnection<Postgres>> for Db {
    fn from(connection: PoolConnection<Postgres>) -> Self {
        Held::Postgres(connection).into()
    }
}

impl From<Transaction<'static, Sqlite>> for Db {
    fn from(tx: Transaction<'static, Sqlite>) -> Self {
        Held::SqliteTx(tx).into()
    }
}

impl From<Transaction<'static, Postgres>> for Db {
    fn from(tx: Transaction<'static, Postgres>) -> Self {
        Held::PostgresTx(tx).into()
    }
}

/// A transaction. Dropped without a commit, it never happened.
pub(crate) struct Tx {
    db: Db,
    /// How often something has happened of which watchers are told.
    news: watch::Sender<u64>,
    /// How often something has changed that other servers keep in memory.
    changes: watch::Sender<u64>,
}

impl Deref for Tx {
    type Target = Db;

    fn deref(&self) -> &Db {
        &self.db
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Db {
        &mut self.db
    }
}

impl Tx {
    pub(super) fn new(db: Db, news: watch::Sender<u64>, changes: watch::Sender<u64>) -> Self {
        Self { db, news, changes }
    }

    pub(super) async fn commit(self) -> Result<(), StoreError> {
        let (tells, changes) = (self.db.news, !self.db.bumped.is_empty());
        match self.db.held {
            Held::SqliteTx(tx) => tx.commit().await?,
            Held::PostgresTx(tx) => tx.commit().await?,
            Held::Sqlite(_) | Held::Postgres(_) => unreachable!("a transaction is one"),
        }
        if tells {
            self.news.send_modify(|count| *count += 1);
        }
        if changes {
            self.changes.send_modify(|count| *count += 1);
        }
        Ok(())
    }
}

/// A value for a placeholder.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Text(Option<String>),
    Number(Option<i64>),
    Truth(bool),
}

macro_rules! values {
    ($($from:ty => |$value:ident| $to:expr;)*) => {
        $(impl From<$from> for Value {
            fn from($value: $from) -> Self {
                $to
            }
        })*
    };
}

values! {
    &str => |text| Self::Text(Some(text.to_owned()));
    String => |text| Self::Text(Some(text));
    &String => |text| Self::Text(Some(text.clone()));
    Option<&str> => |text| Self::Text(text.map(str::to_owned));
    Option<String> => |text| Self::Text(text);
    &Option<String> => |text| Self::Text(text.clone());
    i64 => |number| Self::Number(Some(number));
    Option<i64> => |number| Self::Number(number);
    bool => |truth| Self::Truth(truth);
}

/// What a row can be read into: a struct that derives `FromRow`, or a tuple.
pub(crate) trait Readable:
    for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin
{
}

impl<T> Readable for T where
    T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin
{
}

/// A statement with its values.
#[must_use]
pub(crate) struct Statement {
    sql: SqlStr,
    values: Vec<Value>,
}

/// What a statement that was run has changed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Done(u64);

impl Done {
    pub(crate) fn rows_affected(self) -> u64 {
        self.0
    }
}

/// A statement that both databases know.
pub(crate) fn query(sql: &'static str) -> Statement {
    Statement {
        sql: sqlx::SqlSafeStr::into_sql_str(sql),
        values: Vec::new(),
    }
}

impl Statement {
    /// The value of the next placeholder.
    pub(crate) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Runs it.
    pub(crate) async fn execute(self, db: &mut Db) -> Result<Done, StoreError> {
        Ok(Done(match db.connection() {
            Connection::Sqlite(db) => self.sqlite().execute(db).await?.rows_affected(),
            Connection::Postgres(db) => self.postgres().execute(db).await?.rows_affected(),
        }))
    }

    /// All rows.
    pub(crate) async fn fetch_all<T: Readable>(self, db: &mut Db) -> Result<Vec<T>, StoreError> {
        let rows: Result<Vec<T>, sqlx::Error> = match db.connection() {
            Connection::Sqlite(db) => {
                let rows = self.sqlite().fetch_all(db).await?;
                rows.iter().map(T::from_row).collect()
            }
            Connection::Postgres(db) => {
                let rows = self.postgres().fetch_all(db).await?;
                rows.iter().map(T::from_row).collect()
            }
        };
        Ok(rows?)
    }

    /// The row, if there is one.
    pub(crate) async fn fetch_optional<T: Readable>(
        self,
        db: &mut Db,
    ) -> Result<Option<T>, StoreError> {
        let row: Option<Result<T, sqlx::Error>> = match db.connection() {
            Connection::Sqlite(db) => {
                let row = self.sqlite().fetch_optional(db).await?;
                row.as_ref().map(T::from_row)
            }
            Connection::Postgres(db) => {
                let row = self.postgres().fetch_optional(db).await?;
                row.as_ref().map(T::from_row)
            }
        };
        Ok(row.transpose()?)
    }

    fn sqlite(self) -> Query<'static, Sqlite, SqliteArguments> {
        let bind = |query: Query<'static, Sqlite, SqliteArguments>, value| match value {
            Value::Text(text) => query.bind(text),
            Value::Number(number) => query.bind(number),
            Value::Truth(truth) => query.bind(truth),
        };
        self.values.into_iter().fold(sqlx::query(self.sql), bind)
    }

    fn postgres(self) -> Query<'static, Postgres, PgArguments> {
        let bind = |query: Query<'static, Postgres, PgArguments>, value| match value {
            Value::Text(text) => query.bind(text),
            Value::Number(number) => query.bind(number),
            Value::Truth(truth) => query.bind(truth),
        };
        self.values.into_iter().fold(sqlx::query(self.sql), bind)
    }
}

/// How many texts a statement for many takes. One of each size is prepared at most.
const SIZES: [usize; 4] = [1, 8, 64, 512];

/// A statement about any number of texts: `{}` in it becomes their placeholders.
pub(crate) struct ForMany {
    sql: &'static str,
    /// How many placeholders come before them.
    fixed: usize,
    sized: [OnceLock<String>; SIZES.len()],
}

impl ForMany {
    pub(crate) const fn new(sql: &'static str, fixed: usize) -> Self {
        let sized = [const { OnceLock::new() }; SIZES.len()];
        Self { sql, fixed, sized }
    }

    /// The statements that together are about all of these. The last text fills the places that
    /// are left over; said twice, it says nothing new.
    pub(crate) fn of<'a>(
        &'static self,
        fixed: impl IntoIterator<Item = Value>,
        texts: impl IntoIterator<Item = &'a str>,
    ) -> Vec<Statement> {
        let fixed: Vec<Value> = fixed.into_iter().collect();
        let texts: Vec<&str> = texts.into_iter().collect();
        let largest = SIZES[SIZES.len() - 1];
        let statement = |some: &[&str]| {
            let fits = |size: &usize| some.len() <= *size;
            let at = SIZES.iter().position(fits).unwrap_or(SIZES.len() - 1);
            let mut statement = query(self.sized[at].get_or_init(|| self.with_places(SIZES[at])));
            statement.values.clone_from(&fixed);
            let fill = some
                .iter()
                .rev()
                .take(1)
                .cycle()
                .take(SIZES[at] - some.len());
            let values = some.iter().chain(fill).map(|text| Value::from(*text));
            statement.values.extend(values);
            statement
        };
        texts.chunks(largest).map(statement).collect()
    }

    fn with_places(&self, count: usize) -> String {
        let places: Vec<String> = (1..=count)
            .map(|n| format!("${}", self.fixed + n))
            .collect();
        self.sql.replacen("{}", &places.join(", "), 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_for_many_has_a_place_for_each_and_is_one_of_few() {
        static STATEMENT: ForMany = ForMany::new("UPDATE t SET a = $1 WHERE b IN ({})", 1);
        let texts: Vec<String> = (0..520).map(|n| n.to_string()).collect();
        let of = |count: usize| {
            let texts = texts[..count].iter().map(String::as_str);
            STATEMENT.of([7_i64.into()], texts)
        };
        assert!(of(0).is_empty());
        assert_eq!(of(1)[0].sql.as_str(), "UPDATE t SET a = $1 WHERE b IN ($2)");
        for (count, sizes) in [
            (2, vec![8]),
            (8, vec![8]),
            (9, vec![64]),
            (520, vec![512, 8]),
        ] {
            let statements = of(count);
            let values = |s: &Statement| s.values.len() - 1;
            assert_eq!(statements.iter().map(values).collect::<Vec<_>>(), sizes);
            let said: std::collections::BTreeSet<String> = statements
                .iter()
                .flat_map(|s| s.values[1..].iter().map(|value| format!("{value:?}")))
                .collect();
            assert_eq!(said.len(), count, "each is said");
        }
    }
}
