//! Futures that are not always there.

use futures::future::BoxFuture;

/// Waits for a future if there is one; otherwise never returns.
///
/// # Cancel safety
///
/// The future stays with its owner, who removes it when it has completed.
pub(crate) async fn optional<T>(future: Option<&mut BoxFuture<'_, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
