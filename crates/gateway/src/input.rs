//! Input: path, query string and body, merged into the one JSON value that an operation takes.
//!
//! A path and a query string hold only text. A [`Plan`], made once from the input's schema, says
//! which fields are lists and which are read as numbers or booleans. Text that does not read as
//! such stays text, so that the schema's own check makes the complaint, in the same words as for a
//! body. A field may come from several places as long as they agree.

mod merge;
pub(crate) mod percent;
mod plan;

pub(crate) use merge::{InputError, merge};
pub(crate) use plan::{Plan, properties, resolve};
