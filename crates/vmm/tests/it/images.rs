//! What is promised of images that others made: against a real registry, with images that other
//! programs made, and with archives that nobody honest would make.

mod boot;
mod forms;
mod full;
mod hostile;
mod killed;
mod led;
mod makers;
mod pull;
mod stub;
mod tarball;
mod tls;
mod transfer;
