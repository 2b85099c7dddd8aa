//! Certificates and lists as authorities really make them: what is good is taken, what is not is refused in plain words.

mod group;
mod lists;
#[path = "../../src/lab/made.rs"]
pub(crate) mod made;
mod paths;
mod revocation;
