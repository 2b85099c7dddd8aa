//! One operation in flight, as a future that owns what the kernel works on.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use io_uring::squeue;

use super::driver::{Completion, Key, Kind};
use super::executor::Core;

/// An operation. It is queued when it is made, and submitted at the end of the loop turn.
///
/// `T` is what the kernel reads or writes. It comes back with the completion; when the future is
/// dropped earlier, the driver keeps it until the completion has arrived.
pub(super) struct Op<T: 'static> {
    core: Rc<Core>,
    key: Option<Key>,
    resource: Option<T>,
}

impl<T: 'static> Op<T> {
    /// Queues `entry`, which may point into what `resource` owns, but not into `resource` itself.
    pub fn new(core: &Rc<Core>, entry: squeue::Entry, kind: Kind, resource: T) -> Self {
        let key = core.driver.borrow_mut().start(entry, kind);
        Self {
            core: core.clone(),
            key: Some(key),
            resource: Some(resource),
        }
    }
}

impl<T: 'static + Unpin> Future for Op<T> {
    type Output = (Completion, T);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let key = self
            .key
            .expect("an operation is not polled after its completion");
        let completion = self.core.driver.borrow_mut().poll(key, context.waker());
        match completion {
            None => Poll::Pending,
            Some(completion) => {
                self.key = None;
                let resource = self
                    .resource
                    .take()
                    .expect("the resource is here until the completion");
                Poll::Ready((completion, resource))
            }
        }
    }
}

impl<T: 'static> Drop for Op<T> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            let resource = self
                .resource
                .take()
                .map(|resource| Box::new(resource) as Box<dyn std::any::Any>);
            self.core.abandon(key, resource);
        }
    }
}
