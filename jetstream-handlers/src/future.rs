//! Optional futures.

use futures::future::BoxFuture;

/// Waits for a future if there is one; never returns otherwise.
///
/// # Cancel safety
///
/// The future is only borrowed, so it continues at the next call. The caller must remove it after it has completed.
pub(crate) async fn optional<T>(future: Option<&mut BoxFuture<'_, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
