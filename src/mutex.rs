//! One way to lock a mutex.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The value, also after a panic elsewhere while it was held: what this program keeps behind a lock is whole after each statement.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
