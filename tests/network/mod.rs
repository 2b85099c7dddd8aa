//! What real networks do to a session: bytes cut anywhere and joined with what follows, links that are slow or lose.

mod corners;
mod cuts;
mod resolver;
mod slow;
mod stories;
