//! One statement, either database.
//!
//! A statement is text that SQLite and PostgreSQL both know, with `$1` placeholders, and values of
//! three kinds: text, whole numbers, truth. [`query`] puts them together, and the connection that
//! it is run on decides which driver does so. A row is read by the same `FromRow` from both.

use std::ops::{Deref, DerefMut};

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{FromRow, Postgres, SqlStr, Sqlite, Transaction};

use super::StoreError;

/// A connection, inside a transaction or not: what the statements run on.
pub(crate) struct Db(Held);

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
        match &mut self.0 {
            Held::Sqlite(db) => Connection::Sqlite(db),
            Held::SqliteTx(tx) => Connection::Sqlite(tx),
            Held::Postgres(db) => Connection::Postgres(db),
            Held::PostgresTx(tx) => Connection::Postgres(tx),
        }
    }
}

impl From<PoolConnection<Sqlite>> for Db {
    fn from(connection: PoolConnection<Sqlite>) -> Self {
        Self(Held::Sqlite(connection))
    }
}

impl From<PoolConnection<Postgres>> for Db {
    fn from(connection: PoolConnection<Postgres>) -> Self {
        Self(Held::Postgres(connection))
    }
}

/// A transaction. Dropped without a commit, it never happened.
pub(crate) struct Tx(Db);

impl From<Transaction<'static, Sqlite>> for Tx {
    fn from(tx: Transaction<'static, Sqlite>) -> Self {
        Self(Db(Held::SqliteTx(tx)))
    }
}

impl From<Transaction<'static, Postgres>> for Tx {
    fn from(tx: Transaction<'static, Postgres>) -> Self {
        Self(Db(Held::PostgresTx(tx)))
    }
}

impl Deref for Tx {
    type Target = Db;

    fn deref(&self) -> &Db {
        &self.0
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Db {
        &mut self.0
    }
}

impl Tx {
    pub(super) async fn commit(self) -> Result<(), StoreError> {
        match self.0.0 {
            Held::SqliteTx(tx) => tx.commit().await?,
            Held::PostgresTx(tx) => tx.commit().await?,
            Held::Sqlite(_) | Held::Postgres(_) => unreachable!("a transaction is one"),
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
