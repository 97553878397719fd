//! Work side by side, a bounded number at one time.

use futures::future::BoxFuture;
use futures::{StreamExt, stream};

/// Runs all tasks, `at_once` at one time, and returns their results in the order of the tasks.
///
/// The tasks are boxed: the compiler cannot see that a stream of borrowing closures may move between threads
/// (<https://github.com/rust-lang/rust/issues/102211>).
pub(crate) async fn all<T: Send>(tasks: Vec<BoxFuture<'_, T>>, at_once: usize) -> Vec<T> {
    stream::iter(tasks).buffered(at_once.max(1)).collect().await
}
