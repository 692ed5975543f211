//! What the desk promises, with real guests: each test has a data directory of its own and shares
//! only the cache of packages.

mod images;
mod life;
mod refusals;
mod restart;
mod support;
