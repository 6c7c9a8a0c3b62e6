//! The deployment of a changed program: by commands of the program itself, and by rolling restarts.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod commands;
mod rollout;
