//! Two futures in one task, and one with its output changed.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

/// Which of two futures ended first, and with what.
#[derive(Debug, PartialEq, Eq)]
pub enum Either<A, B> {
    /// The first one.
    Left(A),
    /// The second one.
    Right(B),
}

/// Runs both to the end. A wake-up polls both: futures that wait for the ring answer such a poll by
/// one look at a slot.
pub async fn join<A: Future, B: Future>(a: A, b: B) -> (A::Output, B::Output) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut left, mut right) = (None, None);
    poll_fn(move |context| {
        if left.is_none()
            && let Poll::Ready(value) = a.as_mut().poll(context)
        {
            left = Some(value);
        }
        if right.is_none()
            && let Poll::Ready(value) = b.as_mut().poll(context)
        {
            right = Some(value);
        }
        match (left.take(), right.take()) {
            (Some(l), Some(r)) => Poll::Ready((l, r)),
            (l, r) => {
                (left, right) = (l, r);
                Poll::Pending
            }
        }
    })
    .await
}

/// Runs both to the end, or until one fails; then the other is dropped.
///
/// # Errors
/// The first failure.
pub async fn try_join<E>(
    a: impl Future<Output = Result<(), E>>,
    b: impl Future<Output = Result<(), E>>,
) -> Result<(), E> {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut a_open, mut b_open) = (true, true);
    poll_fn(move |context| {
        if a_open && let Poll::Ready(result) = a.as_mut().poll(context) {
            result?;
            a_open = false;
        }
        if b_open && let Poll::Ready(result) = b.as_mut().poll(context) {
            result?;
            b_open = false;
        }
        if a_open || b_open {
            Poll::Pending
        } else {
            Poll::Ready(Ok(()))
        }
    })
    .await
}

pin_project! {
    /// See [`race`]. A type of its own, because an `async fn` would keep its two arguments twice.
    pub struct Race<A, B> {
        #[pin]
        a: A,
        #[pin]
        b: B,
    }
}

/// Runs both until the first ends; the other is dropped with the race, and its operations are
/// cancelled. The first argument wins a tie.
pub fn race<A: Future, B: Future>(a: A, b: B) -> Race<A, B> {
    Race { a, b }
}

impl<A: Future, B: Future> Future for Race<A, B> {
    type Output = Either<A::Output, B::Output>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(value) = this.a.poll(context) {
            return Poll::Ready(Either::Left(value));
        }
        this.b.poll(context).map(Either::Right)
    }
}

pin_project! {
    /// See [`map`].
    pub struct Map<F, G> {
        #[pin]
        future: F,
        change: G,
    }
}

/// Changes what `future` gives. A type of its own, because an `async fn` would keep its arguments
/// beside the future.
pub fn map<F: Future, G: Fn(F::Output) -> T, T>(future: F, change: G) -> Map<F, G> {
    Map { future, change }
}

impl<F: Future, G: Fn(F::Output) -> T, T> Future for Map<F, G> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = self.project();
        this.future.poll(context).map(this.change)
    }
}

pin_project! {
    /// See [`around`].
    pub struct Around<F, B, A> {
        #[pin]
        future: F,
        before: B,
        after: A,
    }
}

/// Calls `before` before and `after` behind each turn of `future`, for what is to be measured of it
/// alone.
pub fn around<F: Future, T, B: Fn() -> T, A: Fn(T)>(
    future: F,
    before: B,
    after: A,
) -> Around<F, B, A> {
    Around {
        future,
        before,
        after,
    }
}

impl<F: Future, T, B: Fn() -> T, A: Fn(T)> Future for Around<F, B, A> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let measured = (this.before)();
        let polled = this.future.poll(context);
        (this.after)(measured);
        polled
    }
}

/// Runs `at_once`, and `later` where there is none or it would block.
pub fn unless_blocked<A, B, T>(
    at_once: Option<A>,
    later: impl Fn() -> B,
) -> impl Future<Output = io::Result<T>>
where
    A: Future<Output = io::Result<T>> + Unpin,
    B: Future<Output = io::Result<T>> + Unpin,
{
    let mut running = match at_once {
        Some(at_once) => Either::Left(at_once),
        None => Either::Right(later()),
    };
    poll_fn(move |context| {
        loop {
            match &mut running {
                Either::Left(at_once) => match ready!(Pin::new(at_once).poll(context)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        running = Either::Right(later());
                    }
                    result => return Poll::Ready(result),
                },
                Either::Right(later) => return Pin::new(later).poll(context),
            }
        }
    })
}
