//! Looking again and again, on threads that may wait.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;

use crate::ring;

/// Runs what may take seconds of a CPU, or waits for a disk: behind everything else, so that the
/// data cores do not feel it. For the thread of the control core, which answers probes.
pub fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    spawn_blocking(|| {
        ring::yield_to_others();
        work()
    })
}

/// Looks, and looks again when so much time has passed since it was done, for ever.
pub async fn watch(every: Duration, look: impl Fn() + Send + Sync + 'static) {
    let look = Arc::new(look);
    loop {
        sleep(every).await;
        let look = look.clone();
        // One that has panicked is in the log; the next look is another.
        let _ = in_background(move || look()).await;
    }
}
