//! Which server of a service is next.

use std::cell::Cell;

/// Round robin over the servers of one service, on one core.
#[derive(Debug, Default)]
pub struct RoundRobin {
    next: Cell<usize>,
}

impl RoundRobin {
    /// Starts at `offset`, so that the cores of a node do not begin with the same server.
    #[must_use]
    pub fn starting_at(offset: usize) -> Self {
        Self {
            next: Cell::new(offset),
        }
    }

    /// The order in which to try `count` servers for one tunnel: each once, the next in turn first.
    pub fn order(&self, count: usize) -> impl Iterator<Item = usize> + use<> {
        let first = if count == 0 {
            0
        } else {
            self.next.get() % count
        };
        self.next.set(first + 1);
        (0..count).map(move |step| (first + step) % count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_is_first_in_turn_and_tried_once() {
        let turn = RoundRobin::starting_at(4);
        let orders: Vec<Vec<usize>> = (0..4).map(|_| turn.order(3).collect()).collect();
        assert_eq!(orders, [[1, 2, 0], [2, 0, 1], [0, 1, 2], [1, 2, 0]]);
        assert_eq!(turn.order(0).count(), 0);
    }
}
